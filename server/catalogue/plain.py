"""Rows that were written before there were keys: found, and encrypted where they are, a few at a time.

These functions work in a transaction that the store gives them, whatever its database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from server.catalogue import encryption, schema, snapshot
from server.catalogue.rows import EventRow, FeedbackRow, LogRow, SnapshotRow
from server.catalogue.store import Place

# Key in `meta`: there are no plain rows any more.
_DONE = "plain_rows"
# The log first: a fold moves its rows to the two others, encrypted, while these are gone through.
_TABLES: tuple[tuple[sa.Table, type[EventRow] | type[SnapshotRow]], ...] = (
    (schema.log, LogRow),
    (schema.feedback, FeedbackRow),
    (schema.snapshot, SnapshotRow),
)


@dataclass(frozen=True)
class Found:
    """Plain rows of one table, and where to look next; None: that was the last table."""

    table: sa.Table
    rows: Sequence[EventRow | SnapshotRow]
    next_place: Place | None


def none_left(transaction: sa.Connection) -> bool:
    """Every row was gone through before."""
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == _DONE)
    return transaction.execute(query).scalar() is not None


def find(transaction: sa.Connection, after: Place, rows_max: int) -> Found:
    """Look at the next rows. What is damaged is left as it is: that it was is not to be hidden."""
    table, kind = _TABLES[after.table]
    query = sa.select(table).where(table.c.sequence > after.sequence).order_by(table.c.sequence)
    rows = [kind(*values) for values in transaction.execute(query.limit(rows_max))]
    plain = [row for row in rows if not encryption.is_encrypted(row.payload) and not row.fault()]
    if len(rows) == rows_max:
        return Found(table, plain, Place(after.table, rows[-1].sequence))
    last = after.table + 1 == len(_TABLES)
    return Found(table, plain, None if last else Place(after.table + 1))


def write(transaction: sa.Connection, found: Found) -> None:
    """Encrypt what was found and is as it was found; once it is the last, note that."""
    table = found.table
    statement = (
        sa.update(table)
        .where(table.c.sequence == sa.bindparam("at"), table.c.payload == sa.bindparam("before"))
        .values(payload=sa.bindparam("content"), checksum=sa.bindparam("seal"))
    )
    if table is schema.snapshot:
        # A product may have been changed by an event between: its row is another one then.
        statement = statement.where(table.c.changed_sequence == sa.bindparam("changed"))
    values = []
    for row in found.rows:
        stored = encryption.columns(transaction, row)
        changed = {"changed": row.changed_sequence} if isinstance(row, SnapshotRow) else {}
        values.append(
            {
                "at": row.sequence,
                "before": row.payload,
                "content": stored["payload"],
                "seal": stored["checksum"],
                **changed,
            }
        )
    if values:
        transaction.execute(statement, values)
    if found.next_place is None:
        state = snapshot.read_state(transaction, locked=True)
        if state.sequence:
            snapshot.write_state(transaction, state)
        transaction.execute(sa.insert(schema.meta).values(key=_DONE, value="none"))
