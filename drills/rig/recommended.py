"""Requests for recommendations beside a flood of searches: histories of products that the service knows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from drills.rig.load import RecommendFlood
from muster.client import Client, MusterError
from muster.v1 import ranking_pb2

HISTORY = 3
"""Products of a history."""
REQUESTS = 1_000
_ASKED = 20
_ASKED_DEADLINE_MS = 2_000.0


def recommend_requests(product_ids: Sequence[str], seed: int, *, count: int = REQUESTS) -> list[bytes]:
    """Serialised requests with histories drawn from these products; without products nothing is known of
    anybody, and what is popular is asked for.
    """
    draw = random.Random(seed)
    known = list(product_ids)
    return [
        ranking_pb2.RecommendRequest(
            history=[
                ranking_pb2.HistoryItem(product_id=one)
                for one in draw.sample(known, min(HISTORY, len(known)))
            ]
        ).SerializeToString()
        for _ in range(count)
    ]


def products_found(targets: Sequence[str], queries: Sequence[str]) -> list[str]:
    """Products that some of these queries find, each once; a query that finds nothing adds nothing."""
    found: dict[str, None] = {}
    with Client(list(targets)) as client:
        for query in queries[:_ASKED]:
            try:
                answer = client.search(query, deadline_ms=_ASKED_DEADLINE_MS)
            except MusterError:
                # Whoever offers the load is told by the load itself what the service does not answer.
                continue
            found.update(dict.fromkeys(result.product_id for result in answer.results))
    return list(found)


def beside(share: float) -> float:
    """Recommendations for each search, where they are to be this share of all calls. share: 0 to below 1."""
    return share / (1.0 - share)


def flood_of(
    addresses: Sequence[str], product_ids: Sequence[str], seed: int, deadline_ms: float
) -> RecommendFlood:
    """What offers them."""
    return RecommendFlood(addresses, recommend_requests(product_ids, seed), deadline_ms=deadline_ms)
