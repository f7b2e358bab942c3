"""Write a backup of a store, also while replicas run, and make a store from one."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa
from pysqlite3 import dbapi2 as sqlite

from server.catalogue import encryption, schema, snapshot
from server.catalogue.backup import (
    BackupReader,
    Digest,
    Header,
    Progress,
    Record,
    Written,
    now_unix_us,
    open_backup,
    write_backup,
)
from server.catalogue.errors import (
    OutcomeUnknown,
    StoreDamaged,
    StoreError,
    StoreOccupied,
    StoreUnavailable,
)
from server.catalogue.inspection import database, reading
from server.catalogue.location import is_postgresql
from server.catalogue.rows import FeedbackRow, FoldedId, LogRow, SnapshotRow, SnapshotState, as_values
from server.catalogue.sql_view import SqlView
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import StoreConfig, View
from server.privacy.envelope import KeyEncryption

EPOCH_GAP = 1_000
"""A restored catalogue's epochs begin this far above those of the backup: reigns that began after the backup
was written stay below, and the epochs that callers see go on rising.
"""

_ROWS_AT_ONCE = 2_000


class RestoreRefused(StoreError):
    """The restore would overwrite something, or what was asked for is not in the backup."""


# --- export ----------------------------------------------------------------------------------------------


def export_backup(
    store: str | Path,
    file: Path,
    *,
    until: int | None = None,
    progress: Progress = lambda done, total: None,
    keys: KeyEncryption | None = None,
    store_keys: str = "",
) -> Written:
    """Write the catalogue at `store`, a file or a database, into `file`, as it is at one moment.

    keys: the file goes into an envelope. store_keys: where the keys are, if the catalogue is encrypted.
    until: only the events up to this sequence, which may not be
    before the snapshot; None: all. Raises: StoreError; OSError if the file cannot be written. Nothing is
    left of a backup that could not be finished.
    """
    with reading(store, store_keys) as connection:
        view = SqlView(connection, str(store))
        last = _last_sequence(view, until)
        header = Header(
            cluster_id=schema.cluster_id(connection),
            created_unix_us=now_unix_us(),
            lease_epoch=_lease_epoch(connection),
            snapshot_sequence=view.snapshot.sequence,
            head_sequence=last,
            head_epoch=_epoch_at(connection, view, last),
            records=_count(connection, view, last),
        )
        return write_backup(file, header, _records(view, last), progress, keys=keys)


def _last_sequence(view: View, until: int | None) -> int:
    if until is None:
        return view.head.sequence
    if until > view.head.sequence:
        raise RestoreRefused(f"the catalogue ends at event {view.head.sequence}, before {until}")
    if until < view.snapshot.sequence:
        raise RestoreRefused(
            f"event {until} is folded into the snapshot; the earliest moment that is left is"
            f" {view.snapshot.sequence}"
        )
    return until


def _lease_epoch(connection: sa.Connection) -> int:
    table = schema.lease
    query = sa.select(table.c.epoch).where(table.c.name == schema.LEASE_NAME)
    return int(connection.execute(query).scalar() or 0)


def _epoch_at(connection: sa.Connection, view: View, sequence: int) -> int:
    if sequence == view.snapshot.sequence:
        return view.snapshot.epoch
    query = sa.select(schema.log.c.epoch).where(schema.log.c.sequence == sequence)
    epoch = connection.execute(query).scalar()
    if epoch is None:
        raise StoreDamaged(f"event {sequence} is missing; see `muster catalogue verify`")
    return int(epoch)


def _count(connection: sa.Connection, view: View, last: int) -> int:
    rows = 0
    for table in (schema.folded_event, schema.feedback):
        rows += int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)
    return 1 + rows + view.snapshot.products + last - view.snapshot.sequence


def _records(view: View, last: int) -> Iterator[Record]:
    """Everything, in the order of a backup. Raises: StoreDamaged: what is damaged is not backed up."""
    yield view.snapshot
    yield from view.folded_ids()
    yield from view.folded_feedback()
    for product in view.snapshot_rows():
        if fault := product.fault():
            raise StoreDamaged(f"the snapshot's row of product {product.product_id!r} {fault}")
        yield product
    for row in view.log_rows(last):
        if fault := row.fault():
            raise StoreDamaged(f"event {row.sequence} {fault}")
        yield row


# --- restore ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restored:
    """A catalogue was made from a backup.

    digest: of what it holds; `export` of it gives the same. complete: all of the backup, not up to a sequence
    before its end. epoch: below that of its first primary. set_aside: where the catalogue that was there
    before is now; its generations lie beside it.
    """

    cluster_id: str
    snapshot_sequence: int
    head_sequence: int
    products: int
    epoch: int
    digest: str
    complete: bool
    set_aside: Path | None


def restore_backup(
    file: Path,
    store: str | Path,
    *,
    until: int | None = None,
    replace: bool = False,
    progress: Progress = lambda done, total: None,
    keys: KeyEncryption | None = None,
    store_keys: str = "",
) -> Restored:
    """Make the catalogue of a backup at `store`, up to the event `until`; None: all of it.

    The whole backup is read and proved first, under another name or in a transaction; only then it takes its
    place. store_keys: where the keys are that it is encrypted with; empty: it is not.

    replace: a file that is there is set aside; without, it is refused, and so is a database that holds
    a catalogue. Raises: StoreError, OSError. After an error `store` is as it was.
    """
    if not is_postgresql(str(store)):
        return _restore_file(
            file,
            Path(store),
            until=until,
            replace=replace,
            progress=progress,
            keys=keys,
            store_keys=store_keys,
        )
    if replace:
        raise RestoreRefused(
            "a database is not set aside: restore into an empty one and name that in catalogue.store"
        )
    return _restore_database(
        file, str(store), until=until, progress=progress, keys=keys, store_keys=store_keys
    )


def _restore_database(
    file: Path,
    address: str,
    *,
    until: int | None,
    progress: Progress,
    keys: KeyEncryption | None,
    store_keys: str,
) -> Restored:
    with open_backup(file, keys) as reader, closing(database(address, store_keys)) as opened:
        last = _until(reader.header, until, file)
        try:
            with opened.creating() as transaction:
                restored = _fill(lambda: nullcontext(transaction), reader, last, progress)
        except StoreOccupied as occupied:
            raise RestoreRefused(f"{occupied}; restore into an empty database") from occupied
        except OutcomeUnknown as unknown:
            raise RestoreRefused(
                f"the connection was lost while {opened.location} was committed;"
                " `muster catalogue verify` shows whether the catalogue is there"
            ) from unknown
        return Restored(cluster_id=opened.cluster_id, set_aside=None, **restored)


def _restore_file(
    file: Path,
    store: Path,
    *,
    until: int | None,
    replace: bool,
    progress: Progress,
    keys: KeyEncryption | None,
    store_keys: str,
) -> Restored:
    draft = store.with_name(f".{store.name}-restoring-{os.getpid()}")
    if store.exists():
        if not replace:
            raise RestoreRefused(
                f"{store} is there already; restore to another path, or say --replace to set it aside"
            )
        require_unused(store)
    _remove(draft)
    try:
        with open_backup(file, keys) as reader:
            last = _until(reader.header, until, file)
            with closing(SqliteStore.open(draft, StoreConfig(encryption_keys=store_keys))) as opened:
                restored = _fill(opened.write_unserved, reader, last, progress)
        set_aside = _set_aside(store) if store.exists() else None
        draft.rename(store)
        _sync_folder(store.parent)
    finally:
        _remove(draft)
    return Restored(cluster_id=opened.cluster_id, set_aside=set_aside, **restored)


def _until(header: Header, until: int | None, file: Path) -> int:
    if until is None:
        return header.head_sequence
    if not header.snapshot_sequence <= until <= header.head_sequence:
        raise RestoreRefused(
            f"{file} can be restored up to any event from {header.snapshot_sequence} to"
            f" {header.head_sequence}, not {until}"
        )
    return until


def _fill(
    writing: Callable[[], AbstractContextManager[sa.Connection]],
    reader: BackupReader,
    last: int,
    progress: Progress,
) -> dict[str, Any]:
    """Fill an empty catalogue with the records up to event `last`; what `Restored` says of them.

    writing: a transaction on it, for each batch.
    """
    header = reader.header
    digest = Digest()
    rows = _Batches()
    epoch = max(header.lease_epoch, header.head_epoch) + EPOCH_GAP
    state = SnapshotState()
    for number, record in enumerate(reader.records(), start=1):
        if isinstance(record, LogRow) and record.sequence > last:
            continue
        digest.add(record)
        if isinstance(record, SnapshotState):
            state = record
        else:
            rows.add(record)
        if rows.count == _ROWS_AT_ONCE:
            with writing() as transaction:
                rows.insert(transaction)
            progress(number, header.records)
    with writing() as transaction:
        rows.insert(transaction)
        if state.sequence:
            snapshot.write_state(transaction, state)
        snapshot.note_sealed(transaction, last)
        transaction.execute(
            sa.insert(schema.lease).values(
                name=schema.LEASE_NAME,
                epoch=epoch,
                holder="restored",
                pid=0,
                pid_start_ticks=0,
                boot_id="",
                expires_monotonic_ns=0,
            )
        )
    return {
        "snapshot_sequence": state.sequence,
        "head_sequence": last,
        "products": state.products,
        "epoch": epoch,
        "digest": digest.hex(),
        "complete": last == header.head_sequence,
    }


_Row: TypeAlias = FoldedId | FeedbackRow | SnapshotRow | LogRow


class _Batches:
    """Rows waiting to be inserted, by table."""

    _TABLES = (
        (FoldedId, schema.folded_event),
        (FeedbackRow, schema.feedback),
        (SnapshotRow, schema.snapshot),
        (LogRow, schema.log),
    )

    def __init__(self) -> None:
        self._rows: dict[type, list[_Row]] = {kind: [] for kind, _ in self._TABLES}
        self.count = 0

    def add(self, record: _Row) -> None:
        self._rows[type(record)].append(record)
        self.count += 1

    def insert(self, transaction: sa.Connection) -> None:
        for kind, table in self._TABLES:
            if self._rows[kind]:
                transaction.execute(
                    sa.insert(table), [_columns(transaction, row) for row in self._rows[kind]]
                )
                self._rows[kind] = []
        self.count = 0


def _columns(transaction: sa.Connection, row: _Row) -> dict[str, Any]:
    return as_values(row) if isinstance(row, FoldedId) else encryption.columns(transaction, row)


# --- files -----------------------------------------------------------------------------------------------


def require_unused(path: Path) -> None:
    """No process has the catalogue open; a file too damaged to be opened is in nobody's use. Raises:
    StoreUnavailable.
    """
    connection = sqlite.connect(str(path), timeout=0.5, isolation_level=None)
    try:
        # With a write-ahead log, every connection shares a lock for as long as it lives.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite.OperationalError as error:
        raise StoreUnavailable(
            f"{path} is in use; stop every replica that serves it first ({error})"
        ) from error
    except sqlite.DatabaseError:
        pass
    finally:
        connection.close()


def _set_aside(path: Path) -> Path:
    """Rename the catalogue, with its log, out of the way; and the generations built from it, which hold
    events that the catalogue in its place may not have. Returns the catalogue's new path.
    """
    mark = f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    aside = path.with_name(f"{path.name}.{mark}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    generations = path.with_name("generations")
    moves = {
        Path(f"{path}-wal"): Path(f"{aside}-wal"),
        path: aside,
        generations: generations.with_name(f"generations.{mark}"),
    }
    for before, after in moves.items():
        if before.exists():
            before.rename(after)
    return aside


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
