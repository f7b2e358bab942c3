"""Put back rows that are damaged or missing, where another copy proves what they were.

A damaged row still has its checksum, which covers all that it said: whatever gives the same checksum is what
was there. So a backup's row, or the product of a generation written as the row's event, either proves itself
or is not taken. A row that is gone has no checksum; it comes from a backup of the very same catalogue or not
at all. Everything is put back, or nothing is changed: a log with a guess in it would be worse than a damaged
one.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import sqlalchemy as sa

from muster.v1.catalogue_pb2 import Event, Product
from server.catalogue import encryption, schema, snapshot
from server.catalogue.backup import open_backup
from server.catalogue.errors import OutcomeUnknown, StoreDamaged, StoreError, StoreUnavailable
from server.catalogue.export import require_unused
from server.catalogue.inspection import attempt, database
from server.catalogue.location import is_postgresql
from server.catalogue.rows import LogRow, SnapshotRow
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import StoreConfig
from server.catalogue.verify import Report, verify_rows, verify_store
from server.privacy.envelope import KeyEncryption

if TYPE_CHECKING:
    from server.catalogue.postgres import PostgresStore

_Store: TypeAlias = "SqliteStore | PostgresStore"

# Missing events that are looked for one by one; a log with more holes than that is restored.
_MISSING_MAX = 1_000_000


class RepairRefused(StoreError):
    """Not everything can be proved, so nothing was changed.

    lost: what no source proves, in words. intact_sequence: the catalogue is whole up to this event.
    """

    def __init__(self, message: str, lost: list[str], intact_sequence: int) -> None:
        super().__init__(message)
        self.lost = lost
        self.intact_sequence = intact_sequence


@dataclass(frozen=True)
class Repaired:
    """Rows were put back; none: the catalogue was sound.

    kept: where what they replaced is, a file or tables of the database; empty: nothing was replaced.
    """

    events: list[int]
    products: list[str]
    kept: list[str]


@dataclass
class _Needed:
    """What is to be put back, and what has been proved so far.

    events: by sequence, the damaged row as far as it can be read; None: it is missing or cannot be read.
    """

    events: dict[int, LogRow | None] = field(default_factory=dict)
    products: dict[int, SnapshotRow] = field(default_factory=dict)
    event_ids: dict[int, str] = field(default_factory=dict)
    proved_events: dict[int, LogRow] = field(default_factory=dict)
    proved_products: dict[int, SnapshotRow] = field(default_factory=dict)

    def open_events(self) -> Iterator[tuple[int, LogRow | None]]:
        return ((at, row) for at, row in self.events.items() if at not in self.proved_events)

    def lost(self) -> list[str]:
        """What no source has proved."""
        events = [f"event {at}" for at in sorted(at for at, _ in self.open_events())]
        return events + [
            f"product {row.product_id!r} of the snapshot"
            for at, row in self.products.items()
            if at not in self.proved_products
        ]


def repair(
    store: str | Path,
    *,
    backup: Path | None = None,
    products: Iterable[bytes] = (),
    keys: KeyEncryption | None = None,
    store_keys: str = "",
) -> Repaired:
    """Put back every damaged and missing row of the catalogue at `store`, or change nothing.

    store: a file or the address of a database. backup: a file of `muster catalogue export`; keys: to its
    envelope. store_keys: where the keys are, if the catalogue is encrypted.
    products: serialised `Product`s, of a generation for one. Raises: RepairRefused;
    StoreUnavailable while replicas use the catalogue; StoreError; OSError.
    """
    with closing(_open(store, store_keys)) as opened:
        report = verify_store(store, store_keys=store_keys)
        if report.sound:
            return Repaired([], [], [])
        needed = _needed(opened, report)
        if backup is not None:
            _from_backup(needed, backup, report.cluster_id, keys)
        _from_products(needed, products)
        if lost := needed.lost():
            intact = min([*needed.events, report.head_sequence + 1]) - 1
            if needed.products:
                intact = 0
            raise RepairRefused(
                f"{report.location} was not changed: no source proves {_listed(lost)}", lost, intact
            )
        kept = []
        if isinstance(opened, SqliteStore):
            # Its last connection takes the write-ahead log into the file.
            opened.close()
            kept.append(str(_copy(opened.path)))
        try:
            kept += _put_back(opened, needed)
        except OutcomeUnknown as unknown:
            raise StoreUnavailable(
                f"the connection was lost while the repair of {report.location} was committed;"
                " `muster catalogue verify` shows whether it is done"
            ) from unknown
    return Repaired(sorted(needed.events), sorted(row.product_id for row in needed.products.values()), kept)


def _open(store: str | Path, store_keys: str) -> _Store:
    """The catalogue, which may be damaged. Raises: StoreUnavailable while somebody uses it."""
    if is_postgresql(str(store)):
        opened = database(str(store), store_keys)
        try:
            opened.require_unused()
        except BaseException:
            opened.close()
            raise
        return opened
    require_unused(Path(store))
    return SqliteStore.open_unserved(Path(store), StoreConfig(encryption_keys=store_keys))


def _needed(opened: _Store, report: Report) -> _Needed:
    beyond = [
        problem.text
        for problem in report.problems
        if problem.part in ("file", "schema", "lease", "event_ids", "feedback")
    ]
    missing = sum(last - first + 1 for first, last in report.missing)
    if report.snapshot_broken:
        beyond.append("the snapshot as a whole is damaged")
    if beyond or missing > _MISSING_MAX:
        what = "; ".join(beyond[:3]) or f"{missing} events are missing"
        raise RepairRefused(
            f"{report.location} was not changed: more than single rows is damaged ({what}); restore a backup",
            [what],
            0,
        )
    needed = _Needed()
    needed.events.update((at, None) for first, last in report.missing for at in range(first, last + 1))
    with opened.write_unserved() as connection:
        for sequence in report.damaged:
            needed.events[sequence] = _readable(connection, sequence)
        rows = snapshot.snapshot_rows_of(connection, report.damaged_products)
        needed.products.update((row.sequence, row) for row in rows.values())
        ids = schema.folded_event
        found = connection.execute(
            sa.select(ids.c.sequence, ids.c.event_id).where(ids.c.sequence.in_(list(needed.products)))
        )
        needed.event_ids.update((row.sequence, row.event_id) for row in found)
    if len(needed.products) != len(report.damaged_products):
        raise RepairRefused(
            f"{report.location} was not changed: rows of the snapshot cannot be told apart; restore a backup",
            [],
            0,
        )
    return needed


def _readable(connection: sa.Connection, sequence: int) -> LogRow | None:
    try:
        with attempt(connection):
            return next(snapshot.log_rows(connection, sequence, sequence), None)
    except sa.exc.DBAPIError:
        return None


def _from_backup(needed: _Needed, backup: Path, cluster_id: str, keys: KeyEncryption | None) -> None:
    events, products = {}, {}
    with open_backup(backup, keys) as reader:
        same = reader.header.cluster_id == cluster_id
        for record in reader.records():
            if isinstance(record, LogRow) and record.sequence in needed.events:
                if _proves_event(record, needed.events[record.sequence], same):
                    events[record.sequence] = record
            elif isinstance(record, SnapshotRow) and record.sequence in needed.products:
                damaged = needed.products[record.sequence]
                if record.checksum == damaged.checksum:
                    products[record.sequence] = record
    # Taken only now: the backup's own digest was compared at its end.
    needed.proved_events.update(events)
    needed.proved_products.update(products)


def _proves_event(candidate: LogRow, damaged: LogRow | None, same_catalogue: bool) -> bool:
    """Whether the candidate is what the damaged row was."""
    if damaged is None or damaged.checksum is None:
        return same_catalogue and (damaged is None or damaged.event_id == candidate.event_id)
    if damaged.checksum == candidate.checksum:
        return True
    # The checksum itself may be what was damaged.
    return _content(damaged) == _content(candidate)


def _content(row: LogRow) -> tuple[int, int, str, int, bytes]:
    return row.sequence, row.epoch, row.event_id, row.committed_unix_us, row.payload


def _from_products(needed: _Needed, products: Iterable[bytes]) -> None:
    damaged = [row for _, row in needed.open_events() if row is not None and row.checksum is not None]
    folded = [row for at, row in needed.products.items() if at not in needed.proved_products]
    if not damaged and not folded:
        return
    for serialised in products:
        product = Product.FromString(serialised)
        for row in damaged:
            candidate = replace(row, payload=_upsert(row.event_id, product))
            if candidate.true_checksum() == row.checksum:
                needed.proved_events[row.sequence] = candidate
        for old in folded:
            if old.product_id != product.product_id or old.sequence not in needed.event_ids:
                continue
            again = replace(old, payload=_upsert(needed.event_ids[old.sequence], product)).sealed()
            if again.checksum == old.checksum:
                needed.proved_products[old.sequence] = again


def _upsert(event_id: str, product: Product) -> bytes:
    try:
        return Event(event_id=event_id, upsert=product).SerializeToString(deterministic=True)
    except (UnicodeEncodeError, ValueError):
        return b""  # The id is damaged too: nothing can prove this row.


def _put_back(opened: _Store, needed: _Needed) -> list[str]:
    """In one transaction, which ends only if the whole catalogue is sound then. Returns the tables of a
    database that hold what was replaced.
    """
    kept = []
    with opened.write_unserved() as transaction:
        for table, rows in (
            (schema.log, list(needed.proved_events.values())),
            (schema.snapshot, list(needed.proved_products.values())),
        ):
            if not rows:
                continue
            if transaction.dialect.name == "postgresql":
                kept += _keep(transaction, table, [row.sequence for row in rows])
            for row in rows:
                transaction.execute(sa.delete(table).where(table.c.sequence == row.sequence))
            transaction.execute(sa.insert(table), [encryption.columns(transaction, row) for row in rows])
        report = Report(opened.location)
        verify_rows(transaction, report)
        if not report.sound:
            raise StoreDamaged(
                f"{opened.location} was not changed: with those rows it would still be damaged"
                f" ({report.problems[0].text})"
            )
    return kept


def _keep(transaction: sa.Connection, table: sa.Table, sequences: list[int]) -> list[str]:
    """Copy rows that are about to be replaced into a table of their own; its name, where there are any."""
    name = f"{table.name}_damaged_{_stamp().lower()}"
    columns = ", ".join(column.name for column in table.columns)
    transaction.exec_driver_sql(f"CREATE TABLE {name} AS SELECT {columns} FROM {table.name} WHERE false")
    copy = sa.table(name, *(sa.column(column.name) for column in table.columns))
    copied = 0
    for sequence in sequences:
        row = sa.select(table).where(table.c.sequence == sequence)
        insert = sa.insert(copy).from_select([column.name for column in table.columns], row)
        copied += transaction.execute(insert, execution_options={"preserve_rowcount": True}).rowcount
    if not copied:
        transaction.exec_driver_sql(f"DROP TABLE {name}")
        return []
    return [name]


def _copy(store: Path) -> Path:
    """A copy of the damaged file beside it. Nobody uses it, so its log is part of it already."""
    copy = store.with_name(f"{store.name}.damaged-{_stamp()}")
    shutil.copy2(store, copy)
    log = Path(f"{store}-wal")
    if log.exists():
        shutil.copy2(log, Path(f"{copy}-wal"))
    return copy


def _stamp() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{secrets.token_hex(2)}"


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:10])
    return shown if len(items) <= 10 else f"{shown} and {len(items) - 10} more"
