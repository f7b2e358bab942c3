"""Feedback for training: one Parquet file, and beside it what was left out and why.

Left out are feedback of those who give it faster than people do (`muster.privacy.floods`), feedback on
answers that nobody gave or that are too old, and, only where asked for, feedback that names nobody. Texts
are exported only where asked for: most training needs none.

`at_unix_us` is when it happened, as far as that can be believed. The caller's clock is taken where it lies
between the answer and the commit, give or take a minute, or within a day before the commit where there is
no answer; else the server's clock at the commit is, and `clock` says so.
"""

from __future__ import annotations

import json
import os
import secrets
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muster.privacy.floods import NO_RECEIPT, FloodRule, actor_of, outliers
from muster.v1 import feedback_pb2 as pb
from server.catalogue.inspection import reading
from server.catalogue.rows import EventRow
from server.catalogue.sql_view import SqlView
from server.feedback.receipts import issued_s

_ROWS_AT_ONCE = 10_000
_MINUTE_US = 60 * 1_000_000
_DAY_US = 24 * 60 * _MINUTE_US

SCHEMA = pa.schema(
    [
        ("sequence", pa.int64()),
        ("kind", pa.string()),
        ("product_id", pa.string()),
        ("receipt_id", pa.string()),
        ("receipt", pa.string()),
        ("position", pa.int32()),
        ("shopper", pa.string()),
        ("session", pa.string()),
        ("at_unix_us", pa.int64()),
        ("clock", pa.string()),
        ("occurred_unix_us", pa.int64()),
        ("committed_unix_us", pa.int64()),
        ("comment", pa.string()),
        ("query", pa.string()),
    ]
)
_RECEIPTS = {
    pb.RECEIPT_STATE_UNSPECIFIED: "none",
    pb.RECEIPT_STATE_KNOWN: "known",
    pb.RECEIPT_STATE_EXPIRED: "expired",
    pb.RECEIPT_STATE_UNKNOWN: "unknown",
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """What is exported. since_unix_us, until_unix_us: by the time of the commit; 0: unbounded.

    unknown_receipts, expired_receipts: also feedback with those. named_only: not what names neither
    shopper nor session. texts: with comments and queries.
    """

    since_unix_us: int = 0
    until_unix_us: int = 0
    unknown_receipts: bool = False
    expired_receipts: bool = False
    named_only: bool = False
    texts: bool = False
    flood: FloodRule = field(default_factory=FloodRule)

    def within(self, row: EventRow) -> bool:
        """Whether the time is right."""
        at_us = row.committed_unix_us
        return self.since_unix_us <= at_us and (not self.until_unix_us or at_us < self.until_unix_us)

    def problem(self, feedback: pb.Feedback) -> str:
        """Why it is left out; empty: it is not."""
        if feedback.receipt == pb.RECEIPT_STATE_UNKNOWN and not self.unknown_receipts:
            return "unknown_receipt"
        if feedback.receipt == pb.RECEIPT_STATE_EXPIRED and not self.expired_receipts:
            return "expired_receipt"
        if self.named_only and not actor_of(feedback.shopper, feedback.session):
            return "unnamed"
        return ""


@dataclass
class Exported:
    """What was written, and what was left out, by reason. outliers: actors whose feedback was, by why."""

    file: str
    events: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    outliers: dict[str, int] = field(default_factory=dict)
    server_clock: int = 0


def export_feedback(
    store: str | Path,
    file: Path,
    choice: Choice,
    progress: Progress = lambda done, total: None,
    *,
    store_keys: str = "",
) -> Exported:
    """Write the feedback of the catalogue at `store` to `file`, whole or not at all; replicas may run.

    Beside it `FILE.json` says what was left out. Raises: StoreError, OSError.
    """
    exported = Exported(str(file))
    left_out: Counter[str] = Counter()
    with reading(store, store_keys) as connection:
        view = SqlView(connection, str(store))
        total, fast = _fast(view, choice.flood)
        exported.outliers = dict(Counter(fast.values()))
        draft = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
        try:
            with pq.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
                for rows in _batches(_chosen(view, choice, fast, left_out, progress, total)):
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                    exported.events += len(rows)
                    exported.server_clock += sum(row["clock"] == "server" for row in rows)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.chmod(0o600)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    exported.left_out = dict(sorted(left_out.items()))
    summary = {
        "events": exported.events,
        "left_out": exported.left_out,
        "outliers": exported.outliers,
        "server_clock": exported.server_clock,
        "flood_rule": vars(choice.flood),
    }
    file.with_name(f"{file.name}.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="ascii")
    return exported


def feedback_batches(store: str | Path) -> Iterator[pa.RecordBatch]:
    """All feedback of the catalogue at `store`, with texts, in the columns of an export; nothing is left out.

    Raises: StoreError.
    """
    with reading(store) as connection:
        view = SqlView(connection, str(store))
        for rows in _batches(_values(row, feedback, texts=True) for row, feedback in view.feedback()):
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _fast(view: SqlView, rule: FloodRule) -> tuple[int, dict[str, str]]:
    """How many events there are, and who gave them faster than people do, and why."""
    actors: dict[str, int] = {}
    receipts: dict[str, int] = {}
    # Three numbers an event, and each name once.
    columns = array("q"), array("q"), array("q")
    total = 0
    for row, feedback in view.feedback():
        total += 1
        actor = actor_of(feedback.shopper, feedback.session)
        if feedback.kind == pb.FEEDBACK_KIND_VIEW or not actor:
            continue
        receipt = feedback.receipt_id
        columns[0].append(actors.setdefault(actor, len(actors)))
        columns[1].append(row.committed_unix_us)
        columns[2].append(receipts.setdefault(receipt, len(receipts)) if receipt else NO_RECEIPT)
    who, at_us, on = (np.array(one, dtype=np.int64) for one in columns)
    found = outliers(who, at_us, on, rule)
    return total, {actor: found[at] for actor, at in actors.items() if at in found}


def _chosen(
    view: SqlView,
    choice: Choice,
    fast: dict[str, str],
    left_out: Counter[str],
    progress: Progress,
    total: int,
) -> Iterator[dict[str, Any]]:
    for done, (row, feedback) in enumerate(view.feedback(), start=1):
        if done % 1000 == 0:
            progress(done, total)
        if not choice.within(row):
            continue
        problem = choice.problem(feedback)
        if actor_of(feedback.shopper, feedback.session) in fast:
            problem = "flood"
        if problem:
            left_out[problem] += 1
            continue
        yield _values(row, feedback, texts=choice.texts)


def _values(row: EventRow, feedback: pb.Feedback, *, texts: bool) -> dict[str, Any]:
    at_us, clock = happened(row.committed_unix_us, feedback)
    return {
        "sequence": row.sequence,
        "kind": pb.FeedbackKind.Name(feedback.kind).removeprefix("FEEDBACK_KIND_").lower(),
        "product_id": feedback.product_id,
        "receipt_id": feedback.receipt_id or None,
        "receipt": _RECEIPTS[feedback.receipt],
        "position": feedback.position or None,
        "shopper": feedback.shopper or None,
        "session": feedback.session or None,
        "at_unix_us": at_us,
        "clock": clock,
        "occurred_unix_us": feedback.occurred_unix_us or None,
        "committed_unix_us": row.committed_unix_us,
        "comment": (feedback.comment or None) if texts else None,
        "query": (feedback.query or None) if texts else None,
    }


def happened(committed_unix_us: int, feedback: pb.Feedback) -> tuple[int, str]:
    """When it happened, microseconds since the Unix epoch, and by whose clock: "client" or "server"."""
    given_s = issued_s(feedback.receipt_id)
    earliest_us = committed_unix_us - _DAY_US if given_s is None else given_s * 1_000_000 - _MINUTE_US
    if earliest_us <= feedback.occurred_unix_us <= committed_unix_us + _MINUTE_US:
        return feedback.occurred_unix_us, "client"
    return committed_unix_us, "server"


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
