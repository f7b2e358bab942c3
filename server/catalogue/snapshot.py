"""The snapshot: what the oldest events of the log come to, kept in their place.

    snapshot        one upsert for each product that is live at `snapshot_state.sequence`, patches merged
    folded_event    the ids of folded events, for as long as a late retry is recognised by them
    feedback        rows of folded events that are feedback, as they were (`server.catalogue.feedback`)
    log             the events after `snapshot_state.sequence`

A fold takes the next events of the log in: each is applied to the snapshot and its row deleted, in one
transaction. So at any moment snapshot and log together are the catalogue, and folding may stop after any
step. What is merged is what `rankcore.Generation` would make of the same events.

These functions work in a transaction that the store gives them, whatever its database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from muster.v1.catalogue_pb2 import Event, Patch
from server.catalogue import checksum, encryption, feedback, schema
from server.catalogue.errors import StoreDamaged
from server.catalogue.rows import (
    FoldedId,
    LogRow,
    SnapshotRow,
    SnapshotState,
    changed_product,
    patch_product,
)

STATE_NAME = "catalogue"
# Key in `meta`.
_SEALED = "sealed_sequence"

# Parameters that one statement may name, on any database.
_AT_ONCE = 500
# Rows fetched from a cursor at once while a whole table is read.
_FETCH_ROWS = 500


@dataclass(frozen=True)
class Fold:
    """What folding some events will change. events: of the log, from the state's next one on, ascending.

    replaced: rows of the snapshot that go. written: rows that come. kept: sequences of feedback, whose
    rows stay.
    """

    before: SnapshotState
    events: Sequence[LogRow]
    replaced: Sequence[SnapshotRow]
    written: Sequence[SnapshotRow]
    kept: Sequence[int] = ()

    @property
    def after(self) -> SnapshotState:
        """The state that the fold leads to."""
        last = self.events[-1]
        rows_checksum = self.before.rows_checksum
        for row in (*self.replaced, *self.written):
            rows_checksum = checksum.combined(rows_checksum, row.checksum)
        products = self.before.products - len(self.replaced) + len(self.written)
        return SnapshotState(last.sequence, last.epoch, products, rows_checksum)


# --- reading ---------------------------------------------------------------------------------------------


def read_state(transaction: sa.Connection, *, locked: bool = False) -> SnapshotState:
    """The state of the snapshot. locked: nobody else folds until the transaction ends.

    Raises: StoreDamaged if it does not match its checksum.
    """
    table = schema.snapshot_state
    query = sa.select(table).where(table.c.name == STATE_NAME)
    row = transaction.execute(query.with_for_update() if locked else query).first()
    if row is None:
        return SnapshotState()
    stored = encryption.Record(row.rows_checksum, row.checksum)
    found = encryption.load_state(transaction, row.sequence, row.epoch, row.products, stored)
    state = SnapshotState(row.sequence, row.epoch, row.products, found.content)
    if found.seal != state.seal():
        raise StoreDamaged(
            "the state of the snapshot does not match its checksum; `muster catalogue verify` tells more"
        )
    return state


def log_rows(
    transaction: sa.Connection,
    first_sequence: int,
    last_sequence: int | None = None,
    *,
    rows_max: int | None = None,
) -> Iterator[LogRow]:
    """Rows of the log, ascending, unchecked. rows_max None: all of them, streamed."""
    table = schema.log
    query = sa.select(table).where(table.c.sequence >= first_sequence).order_by(table.c.sequence)
    if last_sequence is not None:
        query = query.where(table.c.sequence <= last_sequence)
    if rows_max is not None:
        query = query.limit(rows_max)
    # Streaming takes a transaction of several statements, which a short read is not on every database.
    options = {"yield_per": _FETCH_ROWS} if rows_max is None else {}
    with transaction.execute(query, execution_options=options) as rows:
        for row in rows:
            yield encryption.load(transaction, LogRow, row)


def snapshot_rows(transaction: sa.Connection, *, changed_after: int = 0) -> Iterator[SnapshotRow]:
    """Rows of the snapshot, ascending, streamed and unchecked; only those with an event after
    `changed_after`.
    """
    table = schema.snapshot
    query = sa.select(schema.snapshot).order_by(table.c.sequence)
    if changed_after:
        query = query.where(table.c.changed_sequence > changed_after)
    with transaction.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as rows:
        for row in rows:
            yield encryption.load(transaction, SnapshotRow, row)


def folded_ids(transaction: sa.Connection) -> Iterator[FoldedId]:
    """Ids of folded events that are still known, ascending, streamed."""
    table = schema.folded_event
    query = sa.select(table.c.sequence, table.c.event_id, table.c.committed_unix_us).order_by(
        table.c.sequence
    )
    with transaction.execute(query, execution_options={"yield_per": _FETCH_ROWS}) as rows:
        for row in rows:
            yield FoldedId(*row)


def snapshot_rows_of(transaction: sa.Connection, product_ids: Sequence[str]) -> dict[str, SnapshotRow]:
    """The rows of some products, by product, unchecked."""
    found: dict[str, SnapshotRow] = {}
    for some in _portions(product_ids):
        query = sa.select(schema.snapshot).where(schema.snapshot.c.product_id.in_(some))
        for row in transaction.execute(query):
            found[row.product_id] = encryption.load(transaction, SnapshotRow, row)
    return found


def products_present(transaction: sa.Connection, product_ids: Sequence[str]) -> set[str]:
    """Which of the products are in the snapshot."""
    column = schema.snapshot.c.product_id
    present: set[str] = set()
    for some in _portions(product_ids):
        present.update(transaction.execute(sa.select(column).where(column.in_(some))).scalars())
    return present


# --- folding ---------------------------------------------------------------------------------------------


def prepare_fold(transaction: sa.Connection, events: Sequence[LogRow]) -> Fold:
    """Work out what folding `events` changes, reading alone.

    events: the next ones after the snapshot, at least one. Raises: StoreDamaged if one of them, or a row of
    the snapshot that it changes, is damaged or missing: what is damaged is never folded.
    """
    state = read_state(transaction)
    parsed = []
    for expected, row in enumerate(events, start=state.sequence + 1):
        if row.sequence != expected:
            raise StoreDamaged(f"event {expected} is missing; it cannot be folded into the snapshot")
        if fault := row.fault():
            raise StoreDamaged(f"event {row.sequence} {fault}; it cannot be folded into the snapshot")
        parsed.append((row, Event.FromString(row.payload)))
    touched = dict.fromkeys(changed_product(event) for _, event in parsed)
    merging = _Merging(snapshot_rows_of(transaction, list(touched)))
    for row, event in parsed:
        merging.take(row, event)
    return Fold(state, events, merging.replaced(), merging.written(), feedback.kept_sequences(events))


def commit_fold(transaction: sa.Connection, fold: Fold) -> bool:
    """Carry out a fold that was prepared. False: the snapshot has moved since, nothing was done.

    transaction: a durable one that holds the write lock.
    """
    if read_state(transaction, locked=True) != fold.before:
        return False
    log, folded = schema.log, schema.folded_event
    for rows in _portions([row.product_id for row in fold.replaced]):
        transaction.execute(sa.delete(schema.snapshot).where(schema.snapshot.c.product_id.in_(rows)))
    if fold.written:
        rows_written = [encryption.columns(transaction, row) for row in fold.written]
        transaction.execute(sa.insert(schema.snapshot), rows_written)
    within = log.c.sequence.between(fold.events[0].sequence, fold.events[-1].sequence)
    transaction.execute(
        sa.insert(folded).from_select(
            ["sequence", "event_id", "committed_unix_us"],
            sa.select(log.c.sequence, log.c.event_id, log.c.committed_unix_us).where(within),
        )
    )
    feedback.keep(transaction, fold.kept)
    transaction.execute(sa.delete(log).where(within))
    write_state(transaction, fold.after)
    return True


def write_state(transaction: sa.Connection, state: SnapshotState) -> None:
    """Put the state in place of the one before. The first one shuts out code that knows no snapshots."""
    table = schema.snapshot_state
    stored = encryption.state_record(transaction, state)
    values = {
        "sequence": state.sequence,
        "epoch": state.epoch,
        "products": state.products,
        "rows_checksum": stored.content,
        "checksum": stored.seal,
    }
    changed = transaction.execute(
        sa.update(table).where(table.c.name == STATE_NAME).values(**values),
        execution_options={"preserve_rowcount": True},
    ).rowcount
    if changed == 0:
        transaction.execute(sa.insert(table).values(name=STATE_NAME, **values))
        meta = schema.meta
        transaction.execute(
            sa.update(meta)
            .where(meta.c.key == "schema_version")
            .values(value=schema.SCHEMA_VERSION_WITH_SNAPSHOT)
        )


def forgettable_id(
    transaction: sa.Connection, committed_before_unix_us: int, ids_max: int, rows_max: int
) -> int | None:
    """The last of the oldest ids that are from before a time, or beyond the newest `ids_max`; None: there is
    none. Looks at `rows_max` of them at most.
    """
    table = schema.folded_event
    last = int(transaction.execute(sa.select(sa.func.max(table.c.sequence))).scalar() or 0)
    oldest = sa.select(table.c.sequence, table.c.committed_unix_us).order_by(table.c.sequence).limit(rows_max)
    forgettable = None
    for sequence, committed_unix_us in transaction.execute(oldest):
        if committed_unix_us >= committed_before_unix_us and sequence > last - ids_max:
            break
        forgettable = sequence
    return forgettable


def forget_event_ids(transaction: sa.Connection, last_sequence: int) -> int:
    """Forget the ids of folded events up to `last_sequence`. Returns how many there were."""
    table = schema.folded_event
    return transaction.execute(
        sa.delete(table).where(table.c.sequence <= last_sequence),
        execution_options={"preserve_rowcount": True},
    ).rowcount


# --- checksums of rows that an older version wrote ---------------------------------------------------------


def sealed_sequence(connection: sa.Connection) -> int:
    """Up to here every row of the log has been given a checksum."""
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == _SEALED)
    return int(connection.execute(query).scalar() or 0)


def note_sealed(transaction: sa.Connection, sequence: int) -> None:
    """Up to `sequence` every row of the log has its checksum."""
    meta = schema.meta
    statement = sa.update(meta).where(meta.c.key == _SEALED).values(value=str(sequence))
    if transaction.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 0:
        transaction.execute(sa.insert(meta).values(key=_SEALED, value=str(sequence)))


def seal_rows(transaction: sa.Connection, rows: Sequence[LogRow]) -> None:
    """Write the checksums of rows that have none."""
    table = schema.log
    statement = (
        sa.update(table)
        .where(table.c.sequence == sa.bindparam("at"), table.c.checksum.is_(None))
        .values(checksum=sa.bindparam("seal"))
    )
    if rows:
        transaction.execute(statement, [{"at": row.sequence, "seal": row.true_checksum()} for row in rows])


@dataclass
class _Product:
    """One product on its way: its last upsert, and what patches have made of it since.

    stored: its row in the snapshot, while no event has changed it. upsert: the payload, once it is patched.
    """

    sequence: int
    changed_sequence: int
    epoch: int
    committed_unix_us: int
    payload: bytes
    stored: SnapshotRow | None = None
    upsert: Event | None = None

    def patch(self, sequence: int, patch: Patch) -> None:
        self.upsert = self.upsert or Event.FromString(self.payload)
        patch_product(self.upsert.upsert, patch)
        self.changed_sequence = sequence
        self.stored = None

    def row(self, product_id: str) -> SnapshotRow:
        payload = self.payload
        if self.upsert is not None:
            payload = self.upsert.SerializeToString(deterministic=True)
        return SnapshotRow(
            self.sequence, self.changed_sequence, self.epoch, product_id, self.committed_unix_us, payload
        ).sealed()


class _Merging:
    """The products that some events touch, from what the snapshot holds to what they come to."""

    def __init__(self, stored: Mapping[str, SnapshotRow]) -> None:
        self._stored = stored
        self._products: dict[str, _Product] = {}
        for product_id, row in stored.items():
            if fault := row.fault():
                raise StoreDamaged(f"the snapshot's row of product {product_id!r} {fault}")
            self._products[product_id] = _Product(
                row.sequence, row.changed_sequence, row.epoch, row.committed_unix_us, row.payload, row
            )

    def take(self, row: LogRow, event: Event) -> None:
        product_id = changed_product(event)
        change = event.WhichOneof("change")
        if change == "upsert":
            self._products[product_id] = _Product(
                row.sequence, row.sequence, row.epoch, row.committed_unix_us, row.payload
            )
        elif change == "delete":
            self._products.pop(product_id, None)
        elif change == "patch" and product_id in self._products:
            self._products[product_id].patch(row.sequence, event.patch)

    def replaced(self) -> list[SnapshotRow]:
        """The rows that go."""
        kept = {product_id for product_id, product in self._products.items() if product.stored is not None}
        return [row for product_id, row in self._stored.items() if product_id not in kept]

    def written(self) -> list[SnapshotRow]:
        """The rows that come, ascending."""
        rows = [p.row(product_id) for product_id, p in self._products.items() if p.stored is None]
        return sorted(rows, key=lambda row: row.sequence)


def _portions(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
