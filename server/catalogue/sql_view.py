"""Snapshot and log as a read transaction sees them, every row checked as it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from muster.v1.feedback_pb2 import Feedback
from server.catalogue import feedback, schema, snapshot
from server.catalogue.errors import EventsFolded, StoreDamaged
from server.catalogue.rows import EventRow, FeedbackRow, FoldedId, LogRow, SnapshotRow
from server.catalogue.store import Head, View

_HEAD = sa.select(schema.log.c.sequence, schema.log.c.epoch).order_by(schema.log.c.sequence.desc()).limit(1)


class SqlView(View):
    """See `View`. Lives as long as its transaction, in which every statement must see the same state."""

    def __init__(self, transaction: sa.Connection, location: str) -> None:
        """location: of the store, for people. Raises: StoreDamaged."""
        self._transaction = transaction
        self._location = location
        self.snapshot = snapshot.read_state(transaction)
        self.head = read_head(transaction)

    def snapshot_rows(self, *, changed_after: int = 0) -> Iterator[SnapshotRow]:
        """See `View.snapshot_rows`."""
        for row in snapshot.snapshot_rows(self._transaction, changed_after=changed_after):
            if fault := row.seal_fault():
                raise StoreDamaged(
                    f"the snapshot's row of product {row.product_id!r} in {self._location} {fault};"
                    " see `muster catalogue verify`"
                )
            yield row

    def log_rows(self, last_sequence: int | None = None) -> Iterator[LogRow]:
        """See `View.log_rows`."""
        first = self.snapshot.sequence + 1
        last = self.head.sequence if last_sequence is None else last_sequence
        rows = snapshot.log_rows(self._transaction, first, last)
        return checked_rows(self._transaction, rows, first, self._location)

    def folded_ids(self) -> Iterator[FoldedId]:
        """See `View.folded_ids`."""
        return snapshot.folded_ids(self._transaction)

    def folded_feedback(self) -> Iterator[FeedbackRow]:
        """See `View.folded_feedback`."""
        for row in feedback.folded_rows(self._transaction):
            self._check_feedback(row)
            yield row

    def feedback(self) -> Iterator[tuple[EventRow, Feedback]]:
        """See `View.feedback`."""
        for row, event in feedback.rows(self._transaction):
            self._check_feedback(row)
            yield row, event

    def _check_feedback(self, row: EventRow) -> None:
        if fault := row.seal_fault():
            raise StoreDamaged(
                f"feedback {row.sequence} of {self._location} {fault}; see `muster catalogue verify`"
            )

    def products_present(self, product_ids: Sequence[str]) -> set[str]:
        """See `View.products_present`."""
        return snapshot.products_present(self._transaction, product_ids)


def read_head(transaction: sa.Connection) -> Head:
    """The last event of the log; of the snapshot, where the log is empty."""
    row = transaction.execute(_HEAD).first() or snapshot.read_state(transaction)
    return Head(row.sequence, row.epoch)


def checked_rows(
    transaction: sa.Connection, rows: Iterator[LogRow], first: int, location: str
) -> Iterator[LogRow]:
    """The rows of the log from `first` on, each one there and as it was written.

    Raises: EventsFolded, StoreDamaged.
    """
    for expected, row in enumerate(rows, start=first):
        if row.sequence != expected:
            refuse_folded(transaction, expected)
            raise StoreDamaged(f"event {expected} is missing from {location}; restore it from a backup")
        if fault := row.seal_fault():
            raise StoreDamaged(f"event {row.sequence} of {location} {fault}; see `muster catalogue verify`")
        yield row


def refuse_folded(transaction: sa.Connection, sequence: int) -> None:
    """Raises: EventsFolded if the event is in the snapshot."""
    folded = snapshot.read_state(transaction).sequence
    if sequence <= folded:
        raise EventsFolded(sequence, folded + 1)
