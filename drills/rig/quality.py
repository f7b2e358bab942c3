"""What answers of a running service are worth: judged queries, asked through the client, with time enough.

A drill that changes what is served asks before and after; both are the same queries, so the difference is
that of the catalogue and not of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.rig.shop import Query, ndcg_at_10
from muster.client import Client, MusterError

QUALITY_DEADLINE_MS = 1000.0
"""Enough for the best plan on a busy machine."""


@dataclass(frozen=True)
class Quality:
    """ndcg_at_10: mean over the answered queries that have a relevant product; None: none was. expected: mean
    of what the receipts say of those, as a share of the best plan's."""

    queries: int
    failed: int
    ndcg_at_10: float | None
    expected: float | None

    def describe(self) -> dict[str, Any]:
        """The quality as fields of a history."""
        return {
            "queries": self.queries,
            "failed": self.failed,
            "ndcg_at_10": None if self.ndcg_at_10 is None else round(self.ndcg_at_10, 4),
            "expected": None if self.expected is None else round(self.expected, 4),
        }


def judged(queries: Sequence[Query], most: int) -> list[Query]:
    """The first `most` queries of which a relevant product is known."""
    return [query for query in queries if query.relevant()][:most]


def served_quality(addresses: Sequence[str], queries: Sequence[Query]) -> Quality:
    """Asks each query once. queries: with a relevant product each."""
    found: list[tuple[float, float]] = []
    failed = 0
    with Client(list(addresses)) as client:
        for query in queries:
            try:
                answer = client.search(query.text, deadline_ms=QUALITY_DEADLINE_MS)
            except MusterError:
                failed += 1
                continue
            value = ndcg_at_10([result.product_id for result in answer.results], query.gains)
            if value is not None:
                found.append((value, answer.receipt.expected_ndcg))
    count = len(found)
    return Quality(
        queries=len(queries),
        failed=failed,
        ndcg_at_10=sum(value for value, _ in found) / count if count else None,
        expected=sum(expected for _, expected in found) / count if count else None,
    )
