"""Feedback in the store: where its rows are, how they leave.

An event of feedback begins in the log, as any other. Folding moves its row to the table `feedback`,
unchanged, with its checksum; there it stays until it is too old, or beyond the number that is kept. A row
of the log cannot be taken out, for the log has no gaps: what must go earlier is emptied, that is written
anew without anything but its id.

These functions work in a transaction that the store gives them, whatever its database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from google.protobuf.message import DecodeError

from muster.v1.catalogue_pb2 import Event
from muster.v1.feedback_pb2 import Feedback
from server.catalogue import encryption, schema
from server.catalogue.rows import EventRow, FeedbackRow, LogRow

Wanted = Callable[[EventRow, Feedback], bool]
"""Whether this feedback is meant."""

_FETCH_ROWS = 500
_AT_ONCE = 500
_TABLES: tuple[tuple[sa.Table, type[EventRow]], ...] = (
    (schema.feedback, FeedbackRow),
    (schema.log, LogRow),
)


@dataclass(frozen=True)
class Erased:
    """What one step has done. next_sequence: where the next one begins; None: there is nothing further.

    log_events: rows of the log that were emptied. folded_events: rows of `feedback` that were deleted.
    """

    next_sequence: int | None
    log_events: int = 0
    folded_events: int = 0


def feedback_of(row: EventRow) -> Feedback | None:
    """The feedback of a row; None: it is another event, or cannot be read."""
    try:
        event = Event.FromString(row.payload)
    except (DecodeError, TypeError):
        return None
    return event.feedback if event.HasField("feedback") else None


def rows(transaction: sa.Connection, *, first_sequence: int = 1) -> Iterator[tuple[EventRow, Feedback]]:
    """All feedback that is not erased, by rising sequence, streamed; first what was folded. Rows are
    unchecked.
    """
    for table, kind in _TABLES:
        query = sa.select(table).where(table.c.sequence >= first_sequence).order_by(table.c.sequence)
        with transaction.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as found:
            for values in found:
                row = encryption.load(transaction, kind, values)
                feedback = feedback_of(row)
                if feedback is not None and not feedback.erased:
                    yield row, feedback


def folded_rows(transaction: sa.Connection) -> Iterator[FeedbackRow]:
    """Every row of `feedback`, ascending, streamed and unchecked."""
    query = sa.select(schema.feedback).order_by(schema.feedback.c.sequence)
    with transaction.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as found:
        for values in found:
            yield encryption.load(transaction, FeedbackRow, values)


def kept_sequences(events: Sequence[LogRow]) -> list[int]:
    """Which of some events that are folded go on as feedback."""
    found = ((row.sequence, feedback_of(row)) for row in events)
    return [sequence for sequence, feedback in found if feedback is not None and not feedback.erased]


def keep(transaction: sa.Connection, sequences: Sequence[int]) -> None:
    """Copy rows of the log, about to be deleted there, to `feedback`."""
    names = [column.name for column in schema.feedback.columns]
    for start in range(0, len(sequences), _AT_ONCE):
        some = sequences[start : start + _AT_ONCE]
        chosen = sa.select(*(schema.log.c[name] for name in names)).where(schema.log.c.sequence.in_(some))
        transaction.execute(sa.insert(schema.feedback).from_select(names, chosen))


def may_expire(read: sa.Connection, committed_before_unix_us: int, events_max: int) -> bool:
    """Whether `expire` would find anything; reads two rows."""
    table = schema.feedback
    oldest = sa.select(table.c.committed_unix_us).order_by(table.c.sequence).limit(1)
    committed_unix_us = read.execute(oldest).scalar()
    if committed_unix_us is None:
        return False
    beyond = sa.select(table.c.sequence).order_by(table.c.sequence.desc()).offset(events_max).limit(1)
    return committed_unix_us < committed_before_unix_us or read.execute(beyond).first() is not None


def expire(
    transaction: sa.Connection, *, committed_before_unix_us: int, events_max: int, rows_max: int
) -> int:
    """Delete the oldest rows of `feedback`: what is from before a time, or beyond the newest `events_max`.

    Returns how many, at most rows_max.
    """
    table = schema.feedback
    total = int(transaction.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)
    oldest = sa.select(table.c.sequence, table.c.committed_unix_us).order_by(table.c.sequence).limit(rows_max)
    gone = 0
    last = None
    for sequence, committed_unix_us in transaction.execute(oldest):
        if committed_unix_us >= committed_before_unix_us and total - gone <= events_max:
            break
        last, gone = sequence, gone + 1
    if last is not None:
        transaction.execute(sa.delete(table).where(table.c.sequence <= last))
    return gone


@dataclass(frozen=True)
class Found:
    """What must go. next_sequence: where to look next; None: nowhere. emptied: rows of the log as they
    must become.

    folded: sequences of the rows of `feedback`.
    """

    next_sequence: int | None
    emptied: Sequence[LogRow]
    folded: Sequence[int]

    @property
    def any(self) -> bool:
        """There is something to do."""
        return bool(self.emptied or self.folded)


def find(read: sa.Connection, first_sequence: int, wanted: Wanted, rows_max: int) -> Found:
    """Find what is `wanted` among the next rows from `first_sequence` on, reading alone."""
    emptied: list[LogRow] = []
    folded: list[int] = []
    looked_at = 0
    last = first_sequence - 1
    for table, kind in _TABLES:
        query = sa.select(table).where(table.c.sequence > last).order_by(table.c.sequence)
        for values in read.execute(query.limit(rows_max - looked_at)):
            row = encryption.load(read, kind, values)
            looked_at, last = looked_at + 1, row.sequence
            feedback = feedback_of(row)
            if feedback is None or feedback.erased or not wanted(row, feedback):
                continue
            if isinstance(row, LogRow):
                emptied.append(empty(row))
            else:
                folded.append(row.sequence)
        if looked_at >= rows_max:
            return Found(last + 1, emptied, folded)
    return Found(None, emptied, folded)


def take_out(transaction: sa.Connection, found: Found) -> Erased:
    """Write what `find` has found. A row of the log that was folded meanwhile is deleted where it is now."""
    log = schema.log
    statement = (
        sa.update(log)
        .where(log.c.sequence == sa.bindparam("at"))
        .values(payload=sa.bindparam("bare"), checksum=sa.bindparam("seal"))
    )
    if found.emptied:
        stored = [encryption.columns(transaction, row) for row in found.emptied]
        transaction.execute(
            statement,
            [{"at": row["sequence"], "bare": row["payload"], "seal": row["checksum"]} for row in stored],
        )
    gone = [*found.folded, *(row.sequence for row in found.emptied)]
    deleted = 0
    for start in range(0, len(gone), _AT_ONCE):
        some = gone[start : start + _AT_ONCE]
        deleted += transaction.execute(
            sa.delete(schema.feedback).where(schema.feedback.c.sequence.in_(some)),
            execution_options={"preserve_rowcount": True},
        ).rowcount
    return Erased(found.next_sequence, len(found.emptied), deleted)


def empty(row: LogRow) -> LogRow:
    """The row without what it says, but for its id."""
    bare = Event(event_id=row.event_id, feedback=Feedback(erased=True))
    written = replace(row, payload=bare.SerializeToString(deterministic=True))
    return replace(written, checksum=written.true_checksum())
