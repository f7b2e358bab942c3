"""The store: the log of events and the lease, in one SQLite file shared by the replicas of a machine.

SQLAlchemy Core over `pysqlite3` (its own, recent SQLite). The file holds three tables: `meta` (what this file
is), `log` (the events; sequences start at 1 and have no gaps) and `lease` (who may write). An append carries
its fence in the statement itself: each row is selected *from the lease of the writer's epoch*, so a writer
whose reign has ended writes nothing, whatever its clock says.

Settings: write-ahead log; every commit durable (`synchronous=FULL`); `BEGIN IMMEDIATE`, so a transaction
never fails half-way for want of the write lock. Renewals of the lease are durable too, although an expiry
means nothing after a reboot: a commit that follows one in the write-ahead log can be no more durable than it.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.pool import QueuePool

from muster.v1.catalogue_pb2 import Event, SequencedEvent
from server.catalogue.errors import (
    AppendTimeout,
    DiskFull,
    Fenced,
    LogOverloaded,
    NotPrimary,
    SchemaMismatch,
    StoreDamaged,
    StoreError,
    StoreIOFailed,
    StoreUnavailable,
)
from server.standby.lease import Holder, LeaseRow

__all__ = [
    "AppendTimeout",
    "Appended",
    "Commit",
    "DataVersion",
    "DiskFull",
    "Fenced",
    "Head",
    "Holder",
    "LeaseRow",
    "LogOverloaded",
    "NewEvent",
    "NotPrimary",
    "SchemaMismatch",
    "Store",
    "StoreConfig",
    "StoreDamaged",
    "StoreError",
    "StoreIOFailed",
    "StoreUnavailable",
]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# "MUST", in the header of the file: tells a catalogue from any other SQLite database.
APPLICATION_ID = 0x4D555354
# Older ones can corrupt a write-ahead log that several connections use (https://sqlite.org/wal.html).
SQLITE_VERSION_MIN = (3, 51, 3)
LEASE_NAME = "primary"

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_log = sa.Table(
    "log",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("committed_unix_us", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)
_lease = sa.Table(
    "lease",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pid_start_ticks", sa.Integer, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("expires_monotonic_ns", sa.Integer, nullable=False),
)

_APPEND = (
    sqlite_insert(_log)
    .from_select(
        ["sequence", "epoch", "event_id", "committed_unix_us", "payload"],
        sa.select(
            sa.bindparam("sequence", type_=sa.Integer),
            _lease.c.epoch,
            sa.bindparam("event_id", type_=sa.Text),
            sa.bindparam("committed_unix_us", type_=sa.Integer),
            sa.bindparam("payload", type_=sa.LargeBinary),
        ).where(_lease.c.name == LEASE_NAME, _lease.c.epoch == sa.bindparam("fence_epoch", type_=sa.Integer)),
    )
    .on_conflict_do_nothing(index_elements=["event_id"])
)
_EXTEND = (
    sa.update(_lease)
    .where(
        _lease.c.name == LEASE_NAME,
        _lease.c.epoch == sa.bindparam("fence_epoch", type_=sa.Integer),
        # A reign that has expired is never revived.
        _lease.c.expires_monotonic_ns > sa.bindparam("now_ns", type_=sa.Integer),
    )
    .values(expires_monotonic_ns=sa.bindparam("new_expires_ns", type_=sa.Integer))
)
_HEAD = sa.select(_log.c.sequence, _log.c.epoch).order_by(_log.c.sequence.desc()).limit(1)


@dataclass(frozen=True)
class StoreConfig:
    """busy_timeout_ms: longest wait for SQLite's write lock. readers_max: most read connections at once."""

    busy_timeout_ms: int = 2000
    readers_max: int = 16


@dataclass(frozen=True)
class NewEvent:
    """An event to append. payload: the serialised `muster.v1.Event`; event_id must equal the one inside."""

    event_id: str
    payload: bytes

    @classmethod
    def of(cls, event: Event | bytes) -> NewEvent:
        """Take an Event, or one serialised already.

        Raises: ValueError if it has no event_id (the service refuses such requests with the field's name).
        """
        if isinstance(event, bytes):
            parsed, payload = Event.FromString(event), event
        else:
            parsed, payload = event, event.SerializeToString()
        if not parsed.event_id:
            raise ValueError("an event needs an event_id")
        return cls(parsed.event_id, payload)


@dataclass(frozen=True)
class Appended:
    """A batch is durable.

    sequence: the highest of the batch, new or already known. epoch: the writer's. duplicates: events whose
    event_id was in the log, or earlier in the same batch.
    """

    sequence: int
    epoch: int
    duplicates: int


@dataclass(frozen=True)
class Head:
    """The last event of the log: its sequence and epoch, or 0 and 0 when there is none."""

    sequence: int
    epoch: int


@dataclass(frozen=True)
class Commit:
    """A durable transaction of the log.

    batches: one result for each batch, in order. lease_expires_ns: where the append moved the expiry of the
    lease, on the monotonic clock; None if it was not asked to, or the lease had expired by its clock.
    """

    batches: list[Appended]
    lease_expires_ns: int | None


class _WriteGate:
    """One writer at a time within the process, the lease before the log.

    SQLite's own lock is not fair: without this, a busy log could keep a renewal waiting past its lease.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held = False
        self._urgent = 0

    @contextmanager
    def enter(self, *, urgent: bool, timeout_s: float) -> Iterator[None]:
        with self._condition:
            self._urgent += urgent
            try:
                free = self._condition.wait_for(
                    lambda: not self._held and (urgent or not self._urgent), timeout=timeout_s
                )
            finally:
                self._urgent -= urgent
            if not free:
                self._condition.notify_all()
                raise StoreUnavailable("another write of this process has not finished in time")
            self._held = True
        try:
            yield
        finally:
            with self._condition:
                self._held = False
                self._condition.notify_all()


class DataVersion:
    """A dedicated read connection that tells cheaply whether anything was committed since the last look."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        driver = connection.connection.driver_connection
        if driver is None:
            raise StoreUnavailable("the read connection is closed")
        # Polled every few milliseconds: the driver's own cursor costs a fraction of a statement object.
        self._cursor = driver.cursor()

    def read(self) -> int:
        """A number that differs from the previous one if another connection has committed meanwhile."""
        with _translated():
            return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Give the connection back."""
        self._cursor.close()
        self._connection.close()


class Store:
    """One replica's handle on the shared file. Thread-safe. Open with `Store.open`, end with `close`."""

    def __init__(self, path: Path, config: StoreConfig, clock_ns: Callable[[], int]) -> None:
        """Use `Store.open`, which also checks the file."""
        self.path = path
        self.cluster_id = ""
        self._config = config
        self._clock_ns = clock_ns
        self._gate = _WriteGate()
        self._writes = self._engine(connections_max=1, writes=True)
        self._reads = self._engine(connections_max=config.readers_max, writes=False)

    # --- opening ---------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: StoreConfig | None = None,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> Store:
        """Open the catalogue at `path`, creating file and folder if there are none; check what is there.

        Several replicas may open (and create) the same path at once. clock_ns: the monotonic clock that all
        of them share; leases expire by it.
        Raises: StoreUnavailable (too old an SQLite, folder not writable, locked), SchemaMismatch (not a
        Muster catalogue, or a newer one), StoreDamaged (truncated, corrupt, events missing), DiskFull.
        """
        require_sqlite_version(sqlite.sqlite_version_info)
        path = Path(path)
        _require_writable(path)
        _require_sqlite_file(path)
        store = cls(path, config or StoreConfig(), clock_ns)
        try:
            store._create_or_check()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close every idle connection. A thread still inside a call keeps its own until it is done."""
        for engine in (self._reads, self._writes):
            engine.dispose()

    def _engine(self, *, connections_max: int, writes: bool) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            module=sqlite,
            poolclass=QueuePool,
            pool_size=connections_max,
            max_overflow=0,
            pool_timeout=self._config.busy_timeout_ms / 1000,
            connect_args={
                "timeout": self._config.busy_timeout_ms / 1000,
                "isolation_level": None,
                "check_same_thread": False,
            },
        )

        @sa.event.listens_for(engine, "connect")
        def on_connect(connection: Any, record: object) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={self._config.busy_timeout_ms}")
            cursor.execute("PRAGMA synchronous=FULL")
            if not writes:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @sa.event.listens_for(engine, "begin")
        def on_begin(connection: sa.Connection) -> None:
            if not connection.get_execution_options().get("outside_transactions"):
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _create_or_check(self) -> None:
        # Switching to the write-ahead log needs the file alone for a moment and does not wait for it, so
        # replicas that start together take turns by trying again.
        give_up_at = time.monotonic() + max(1.0, self._config.busy_timeout_ms / 1000)
        while True:
            try:
                self._create_or_check_once()
                return
            except StoreUnavailable:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(0.02)

    def _create_or_check_once(self) -> None:
        with self._gate.enter(urgent=False, timeout_s=self._config.busy_timeout_ms / 1000), _translated():
            with self._writes.connect().execution_options(outside_transactions=True) as raw:
                application_id = _scalar(raw, "PRAGMA application_id")
                tables = _scalar(raw, "SELECT count(*) FROM sqlite_schema")
                if application_id != APPLICATION_ID and (application_id != 0 or tables != 0):
                    raise SchemaMismatch(
                        f"{self.path} is an SQLite database, but not a Muster catalogue; nothing was changed"
                    )
                mode = str(raw.exec_driver_sql("PRAGMA journal_mode=WAL").scalar())
                if mode.lower() != "wal":
                    raise StoreUnavailable(
                        f"{self.path} cannot keep a write-ahead log (journal mode {mode}); use a local disk"
                    )
            # Without a transaction where nothing is to be created: a primary may be frozen inside one.
            if application_id != APPLICATION_ID:
                with self._writes.begin() as transaction:
                    self._create(transaction)
        with self._reading() as transaction:
            self._check(transaction)

    @staticmethod
    def _create(transaction: sa.Connection) -> None:
        if _scalar(transaction, "PRAGMA application_id") == APPLICATION_ID:
            return  # Another replica was faster.
        _metadata.create_all(transaction)
        transaction.execute(
            sa.insert(_meta),
            [
                {"key": "cluster_id", "value": secrets.token_hex(8)},
                {"key": "schema_version", "value": str(SCHEMA_VERSION)},
                {"key": "created_unix_us", "value": str(time.time_ns() // 1000)},
            ],
        )
        transaction.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")

    def _check(self, transaction: sa.Connection) -> None:
        present = set(sa.inspect(transaction).get_table_names())
        missing = sorted({"meta", "log", "lease"} - present)
        if missing:
            raise StoreDamaged(
                f"{self.path} has lost its tables {', '.join(missing)}; restore it from a backup"
            )
        meta = {row.key: row.value for row in transaction.execute(sa.select(_meta))}
        version = meta.get("schema_version", "")
        if version != str(SCHEMA_VERSION):
            raise SchemaMismatch(
                f"{self.path} has schema version {version or 'none'}, this Muster reads {SCHEMA_VERSION}"
            )
        self.cluster_id = meta.get("cluster_id", "")
        page_bytes = int(_scalar(transaction, "PRAGMA page_size"))
        size_bytes, pages = self.path.stat().st_size, int(_scalar(transaction, "PRAGMA page_count"))
        log_bytes = _size_bytes(Path(f"{self.path}-wal"))
        if size_bytes + log_bytes < pages * page_bytes:
            raise StoreDamaged(
                f"{self.path} is cut short: {size_bytes} of {pages * page_bytes} bytes; restore it"
            )
        count = int(transaction.execute(sa.select(sa.func.count()).select_from(_log)).scalar_one())
        head = self._head(transaction).sequence
        if count != head:
            raise StoreDamaged(
                f"{self.path} ends at event {head} but holds {count}; restore it from a backup"
            )

    # --- the log ---------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[Sequence[NewEvent]], *, epoch: int, extend_ns: int | None = None
    ) -> Commit:
        """Append several batches in one durable transaction: all of them, or none.

        epoch: of the lease this writer holds. An event whose event_id is known counts as a duplicate and is
        not written again. extend_ns: also move the expiry of the lease, if it is still valid, to this long
        from now, so that a busy log needs no renewals. Returns once all of it is durable.
        Raises: Fenced, DiskFull, StoreUnavailable: nothing was written. StoreDamaged. StoreIOFailed: unknown.
        """
        with (
            self._gate.enter(urgent=False, timeout_s=self._config.busy_timeout_ms / 1000),
            _translated(),
            self._writes.begin() as transaction,
        ):
            head = self._head(transaction).sequence
            known = self._known_sequences(transaction, [e.event_id for batch in batches for e in batch])
            rows: list[dict[str, Any]] = []
            results = []
            now_us = time.time_ns() // 1000
            for batch in batches:
                highest = duplicates = 0
                for event in batch:
                    sequence = known.get(event.event_id)
                    if sequence is None:
                        sequence = known[event.event_id] = head + len(rows) + 1
                        rows.append(
                            {
                                "sequence": sequence,
                                "event_id": event.event_id,
                                "committed_unix_us": now_us,
                                "payload": event.payload,
                                "fence_epoch": epoch,
                            }
                        )
                    else:
                        duplicates += 1
                    highest = max(highest, sequence)
                results.append(Appended(highest, epoch, duplicates))
            written = 0
            if rows:
                written = transaction.execute(
                    _APPEND, rows, execution_options={"preserve_rowcount": True}
                ).rowcount
            if written != len(rows) or not rows:
                # Duplicates were sorted out above, under the write lock, so a row that was not written was
                # fenced. A batch of duplicates alone wrote nothing: it too is only this epoch's to confirm.
                current = transaction.execute(
                    sa.select(_lease.c.epoch).where(_lease.c.name == LEASE_NAME)
                ).scalar()
                if current != epoch:
                    raise Fenced(epoch, current)
                if written != len(rows):
                    raise StoreDamaged(f"{written} of {len(rows)} events were accepted under a valid lease")
            expires_ns = None
            if extend_ns is not None:
                expires_ns = self._extend(transaction, _EXTEND, {"fence_epoch": epoch}, extend_ns)
            return Commit(results, expires_ns)

    @staticmethod
    def _known_sequences(transaction: sa.Connection, event_ids: list[str]) -> dict[str, int]:
        known: dict[str, int] = {}
        chunk = 500
        for start in range(0, len(event_ids), chunk):
            query = sa.select(_log.c.event_id, _log.c.sequence).where(
                _log.c.event_id.in_(event_ids[start : start + chunk])
            )
            known.update((row.event_id, row.sequence) for row in transaction.execute(query))
        return known

    def head(self) -> Head:
        """The last committed event's sequence and epoch."""
        with self._reading() as transaction:
            return self._head(transaction)

    @staticmethod
    def _head(transaction: sa.Connection) -> Head:
        row = transaction.execute(_HEAD).first()
        return Head(0, 0) if row is None else Head(row.sequence, row.epoch)

    def read_range(
        self, first_sequence: int, last_sequence: int | None = None, *, events_max: int = 1000
    ) -> list[bytes]:
        """Committed events as serialised `SequencedEvent`, ascending, from first to last (both included).

        At most events_max of them; ask again from the next sequence for more. Empty past the end of the log.
        Raises: StoreDamaged if one inside the range is missing; StoreUnavailable.
        """
        query = (
            sa.select(_log.c.sequence, _log.c.epoch, _log.c.committed_unix_us, _log.c.payload)
            .where(_log.c.sequence >= first_sequence)
            .order_by(_log.c.sequence)
            .limit(events_max)
        )
        if last_sequence is not None:
            query = query.where(_log.c.sequence <= last_sequence)
        events: list[bytes] = []
        expected = max(1, first_sequence)
        with self._reading() as transaction:
            for sequence, epoch, committed_unix_us, payload in transaction.execute(query):
                if sequence != expected:
                    raise StoreDamaged(
                        f"event {expected} is missing from {self.path}; restore it from a backup"
                    )
                expected += 1
                events.append(_sequenced(sequence, epoch, committed_unix_us, payload))
        return events

    def read_named(self, prefix: str) -> list[bytes]:
        """Committed events whose id begins with ``prefix``, as serialised `SequencedEvent`, ascending.

        Found through the index of the ids, so it costs little however long the log is. prefix: ASCII, not
        empty. Raises: StoreUnavailable.
        """
        query = (
            sa.select(_log.c.sequence, _log.c.epoch, _log.c.committed_unix_us, _log.c.payload)
            .where(_log.c.event_id >= prefix, _log.c.event_id < prefix[:-1] + chr(ord(prefix[-1]) + 1))
            .order_by(_log.c.sequence)
        )
        with self._reading() as transaction:
            return [_sequenced(*row) for row in transaction.execute(query)]

    def watch_version(self) -> DataVersion:
        """A dedicated connection for polling; close it when done."""
        with _translated():
            return DataVersion(self._reads.connect())

    # --- the lease -------------------------------------------------------------------------------------

    def lease(self) -> LeaseRow | None:
        """The lease as committed, read without any lock: works while a writer is frozen in a transaction."""
        with self._reading() as transaction:
            row = transaction.execute(sa.select(_lease).where(_lease.c.name == LEASE_NAME)).first()
        if row is None:
            return None
        holder = Holder(row.holder, row.pid, row.pid_start_ticks, row.boot_id)
        return LeaseRow(row.epoch, holder, row.expires_monotonic_ns)

    def claim_lease(self, holder: Holder, *, expected_epoch: int, ttl_ns: int) -> LeaseRow | None:
        """Begin reign expected_epoch + 1, if the lease is at expected_epoch (0: there never was one).

        New epoch and new holder become durable in one transaction; from then on every append of an earlier
        epoch is fenced. Returns None if somebody else was first.
        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """
        with self._writing_lease() as transaction:
            claim = LeaseRow(expected_epoch + 1, holder, self._clock_ns() + ttl_ns)
            values = {
                "epoch": claim.epoch,
                "holder": holder.name,
                "pid": holder.pid,
                "pid_start_ticks": holder.pid_start_ticks,
                "boot_id": holder.boot_id,
                "expires_monotonic_ns": claim.expires_monotonic_ns,
            }
            statement: sa.Insert | sa.Update
            if expected_epoch == 0:
                statement = sqlite_insert(_lease).values(name=LEASE_NAME, **values).on_conflict_do_nothing()
            else:
                statement = (
                    sa.update(_lease)
                    .where(_lease.c.name == LEASE_NAME, _lease.c.epoch == expected_epoch)
                    .values(**values)
                )
            return claim if _rows_changed(transaction, statement) == 1 else None

    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int) -> int | None:
        """Move the expiry of a reign that has not ended to ttl_ns from now.

        Returns the new expiry, None if the reign is over: fenced, given back or expired.
        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """
        with self._writing_lease() as transaction:
            statement = _EXTEND.where(_lease.c.holder == sa.bindparam("fence_holder", type_=sa.Text))
            fence = {"fence_epoch": epoch, "fence_holder": holder}
            return self._extend(transaction, statement, fence, ttl_ns)

    def release_lease(self, *, epoch: int, holder: str) -> bool:
        """Mark a reign as given back. False if it had ended already.

        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """
        with self._writing_lease() as transaction:
            statement = (
                sa.update(_lease)
                .where(_lease.c.name == LEASE_NAME, _lease.c.epoch == epoch, _lease.c.holder == holder)
                .values(expires_monotonic_ns=0)
            )
            return _rows_changed(transaction, statement) == 1

    def _extend(
        self, transaction: sa.Connection, statement: sa.Update, fence: dict[str, Any], ttl_ns: int
    ) -> int | None:
        # The clock is read under the write lock: a thread that was paused on its way here sees the true time.
        now_ns = self._clock_ns()
        values = {**fence, "now_ns": now_ns, "new_expires_ns": now_ns + ttl_ns}
        return now_ns + ttl_ns if _rows_changed(transaction, statement, values) == 1 else None

    @contextmanager
    def _writing_lease(self) -> Iterator[sa.Connection]:
        timeout_s = self._config.busy_timeout_ms / 1000
        with self._gate.enter(urgent=True, timeout_s=timeout_s), _translated(), self._writes.begin() as open_:
            yield open_

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _translated(), self._reads.begin() as transaction:
            yield transaction


def require_sqlite_version(version: tuple[int, ...]) -> None:
    """Refuse an SQLite that can corrupt a shared write-ahead log. Raises: StoreUnavailable."""
    if version < SQLITE_VERSION_MIN:
        have, need = (".".join(map(str, v)) for v in (version, SQLITE_VERSION_MIN))
        raise StoreUnavailable(
            f"SQLite {have} can corrupt a log that several processes share; Muster needs {need} or newer "
            "(the package pysqlite3 0.6.1 brings one)"
        )


def _require_writable(path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the folder {folder} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"the folder {folder} is not writable; choose another data_dir or its owner")
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a folder, a catalogue file was expected")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StoreUnavailable(f"{path} is not readable and writable for this user")


def _require_sqlite_file(path: Path) -> None:
    """SQLite says "not a database" only at the first read, and takes a headless stump for a new file."""
    size_bytes = _size_bytes(path)
    if size_bytes == 0:
        return
    with path.open("rb") as file:
        header = file.read(100)
    if header[:16] != b"SQLite format 3\x00":
        raise SchemaMismatch(f"{path} is not an SQLite database; nothing was changed")
    if size_bytes < 512:
        raise StoreDamaged(f"{path} is cut short after {size_bytes} bytes; restore it from a backup")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _rows_changed(
    transaction: sa.Connection, statement: sa.Insert | sa.Update, values: dict[str, Any] | None = None
) -> int:
    return transaction.execute(statement, values, execution_options={"preserve_rowcount": True}).rowcount


def _scalar(connection: sa.Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement).scalar()


def _sequenced(sequence: int, epoch: int, committed_unix_us: int, payload: bytes) -> bytes:
    """Serialise a SequencedEvent around a serialised Event, without parsing the event.

    Field 4 (`event`, length-delimited, tag 0x22) is appended by hand: protobuf messages concatenate.
    """
    front = SequencedEvent(sequence=sequence, epoch=epoch, committed_unix_us=committed_unix_us)
    length, size = bytearray(), len(payload)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return front.SerializeToString() + b"\x22" + bytes(length) + payload


# Extended result codes of SQLite (https://sqlite.org/rescode.html); the low byte is the primary code.
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26
_IOERR_SHMSIZE = 10 | 19 << 8


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the driver raises into the catalogue's errors; the only place that knows SQLite's codes."""
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise StoreUnavailable("every connection to the store is in use") from error
    except sa.exc.DBAPIError as error:
        raise _store_error(error.orig) from error
    except sqlite.Error as error:
        raise _store_error(error) from error


def _store_error(error: BaseException | None) -> StoreError:
    code = int(getattr(error, "sqlite_errorcode", 0) or 0)
    primary = code & 0xFF
    if primary == _FULL or code == _IOERR_SHMSIZE:
        return DiskFull("the disk is full; nothing was written")
    if primary in (_BUSY, _LOCKED):
        return StoreUnavailable("the store is locked by another process; nothing was written")
    if primary in (_READONLY, _CANTOPEN):
        return StoreUnavailable(f"the store cannot be opened for this: {error}")
    if primary == _IOERR:
        return StoreIOFailed(f"reading or writing the store failed: {error} (SQLite code {code})")
    if primary == _CORRUPT:
        return StoreDamaged(f"the store is damaged: {error}; restore it from a backup")
    if primary == _NOTADB:
        return SchemaMismatch("the file is not an SQLite database; nothing was changed")
    return StoreUnavailable(f"the store refused: {error}")
