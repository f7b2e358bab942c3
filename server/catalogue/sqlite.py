"""The store on one machine: an SQLite file shared by the replicas.

SQLAlchemy Core over `pysqlite3` (its own, recent SQLite). Settings: write-ahead log; every commit durable
(`synchronous=FULL`); `BEGIN IMMEDIATE`, so a transaction never fails half-way for want of the write lock.
Renewals of the lease are durable too, although an expiry means nothing after a reboot: a commit that follows
one in the write-ahead log can be no more durable than it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.pool import QueuePool

from server.catalogue import encryption, schema
from server.catalogue.errors import (
    DiskFull,
    SchemaMismatch,
    StoreDamaged,
    StoreError,
    StoreIOFailed,
    StoreUnavailable,
)
from server.catalogue.gate import WriteGate
from server.catalogue.reserve import Reserve
from server.catalogue.sql import SqlStore, translating
from server.catalogue.store import DataVersion, StoreConfig
from server.standby.lease import Holder, LeaseRow
from server.standby.takeover import Takeover, machine_takeover

T = TypeVar("T")

# "MUST", in the header of the file: tells a catalogue from any other SQLite database.
APPLICATION_ID = 0x4D555354
# The lock of the primary, beside the file.
LOCK_NAME = "primary.lock"
# Room kept for the lease, beside the file.
RESERVE_NAME = "lease.reserve"
_OPEN_S = 10.0
# Older ones can corrupt a write-ahead log that several connections use (https://sqlite.org/wal.html).
SQLITE_VERSION_MIN = (3, 51, 3)
_AUTO_VACUUM_INCREMENTAL = 2
# How long the write-ahead log may be in use before it is left for another time.
_CLEAR_S = 5.0
_CLEAR_PAUSE_S = 0.01
_SEARCH_BYTES = 1 << 20


class SqliteDataVersion(DataVersion):
    """SQLite's own counter of other connections' commits."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        driver = connection.connection.driver_connection
        if driver is None:
            raise StoreUnavailable("the read connection is closed")
        # Polled every few milliseconds: the driver's own cursor costs a fraction of a statement object.
        self._cursor = driver.cursor()

    def read(self) -> int:
        """See `DataVersion.read`."""
        with translated():
            return int(self._cursor.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """See `DataVersion.close`."""
        self._cursor.close()
        self._connection.close()


class SqliteStore(SqlStore):
    """The store in a file. Open with `SqliteStore.open`, which also checks the file."""

    def __init__(self, path: Path, config: StoreConfig, clock_ns: Callable[[], int]) -> None:
        """Use `SqliteStore.open`."""
        super().__init__(sqlite_insert, config.encryption_keys)
        self.path = path
        self.location = str(path)
        self._config = config
        self._clock_ns = clock_ns
        self._gate = WriteGate()
        self._reserve: Reserve | None = None
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
    ) -> SqliteStore:
        """Open the catalogue at `path`, creating file and folder if there are none; check what is there.

        Several replicas may open (and create) the same path at once. clock_ns: the monotonic clock that all
        of them share; leases expire by it.
        Raises: StoreUnavailable (too old an SQLite, folder not writable, locked), SchemaMismatch (not a
        Muster catalogue, or a newer one), StoreDamaged (truncated, corrupt, events missing), DiskFull.
        """
        require_sqlite_version(sqlite.sqlite_version_info)
        path = Path(path)
        _require_writable(path)
        require_sqlite_file(path)
        store = cls(path, config or StoreConfig(), clock_ns)
        try:
            store._create_or_check()
        except BaseException:
            store.close()
            raise
        store._reserve = Reserve(path.with_name(RESERVE_NAME))
        return store

    @classmethod
    def open_unserved(cls, path: Path, config: StoreConfig) -> SqliteStore:
        """The catalogue at `path`, which is there and may be damaged, unchecked: for what repairs it."""
        require_sqlite_version(sqlite.sqlite_version_info)
        _require_writable(path)
        require_sqlite_file(path)
        return cls(path, config, time.monotonic_ns)

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
            # What is written is nobody's business but the file's: not that of a message in a log.
            hide_parameters=True,
            execution_options={encryption.OPTION: self._encryption},
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
            # A damaged text is a row with a wrong checksum, not a failure to read.
            connection.text_factory = text_of
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={self._config.busy_timeout_ms}")
            cursor.execute("PRAGMA synchronous=FULL")
            if writes:
                # What is deleted or replaced is overwritten, not just let go: an erased shopper is gone
                # from the file.
                cursor.execute("PRAGMA secure_delete=ON")
            else:
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
        # One of them may be migrating the schema.
        give_up_at = time.monotonic() + max(_OPEN_S, self._config.busy_timeout_ms / 1000)
        while True:
            try:
                self._create_or_check_once()
                return
            except StoreUnavailable:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(0.02)

    def _create_or_check_once(self) -> None:
        with self._gate.enter(urgent=False, timeout_s=self._config.busy_timeout_ms / 1000), translated():
            with self._writes.connect().execution_options(outside_transactions=True) as raw:
                # In this order: between the two another replica may create the catalogue, all in one commit.
                tables = _scalar(raw, "SELECT count(*) FROM sqlite_schema")
                application_id = _scalar(raw, "PRAGMA application_id")
                if application_id != APPLICATION_ID and (application_id != 0 or tables != 0):
                    raise SchemaMismatch(
                        f"{self.path} is an SQLite database, but not a Muster catalogue; nothing was changed"
                    )
                created = application_id == APPLICATION_ID
                if not created:
                    # Only a file without pages takes this on; deleted rows then give their room back.
                    raw.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
                # Before anything is changed, the log's mode included: a newer catalogue is left as it is.
                current = created and schema.is_current(raw)
                mode = str(raw.exec_driver_sql("PRAGMA journal_mode=WAL").scalar())
                if mode.lower() != "wal":
                    raise StoreUnavailable(
                        f"{self.path} cannot keep a write-ahead log (journal mode {mode}); use a local disk"
                    )
            # Without a transaction where nothing is to be changed: a primary may be frozen inside one.
            if not current:
                schema.load_migrations()
                with self._writes.begin() as transaction:
                    self._create_or_migrate(transaction)
        with self._reading() as transaction:
            self._check(transaction)

    @staticmethod
    def _create_or_migrate(transaction: sa.Connection) -> None:
        # Read again, under the write lock: another replica may have been faster.
        created = _scalar(transaction, "PRAGMA application_id") == APPLICATION_ID
        schema.migrate(transaction)
        if not created:
            schema.name_catalogue(transaction)
            transaction.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")

    def _check(self, transaction: sa.Connection) -> None:
        self.cluster_id = schema.cluster_id(transaction)
        page_bytes = int(_scalar(transaction, "PRAGMA page_size"))
        size_bytes, pages = self.path.stat().st_size, int(_scalar(transaction, "PRAGMA page_count"))
        log_bytes = _file_bytes(Path(f"{self.path}-wal"))
        if size_bytes + log_bytes < pages * page_bytes:
            raise StoreDamaged(
                f"{self.path} is cut short: {size_bytes} of {pages * page_bytes} bytes; restore it"
            )
        self._encryption.check(transaction)
        self._check_log(transaction)

    def takeover(self, replica: str, *, ttl_ns: int) -> Takeover:
        """See `Store.takeover`."""
        return machine_takeover(self.path.with_name(LOCK_NAME), replica)

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, *, urgent: bool, limit_ns: int | None = None) -> Iterator[sa.Connection]:
        if self._reserve is not None and not urgent:
            # What the lease needs on a full disk is for nobody else.
            self._reserve.keep()
        timeout_s = self._config.busy_timeout_ms / 1000
        if limit_ns is not None:
            timeout_s = min(timeout_s, limit_ns / 1e9)
        began_s = time.monotonic()
        with (
            self._gate.enter(urgent=urgent, timeout_s=timeout_s),
            translated(),
            self._writes.connect() as connection,
            _waiting_for_lock(
                connection, timeout_s - (time.monotonic() - began_s), self._config.busy_timeout_ms
            ),
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with translated(), self._reads.begin() as transaction:
            yield transaction

    def claim_lease(self, holder: Holder, *, expected_epoch: int, ttl_ns: int) -> LeaseRow | None:
        """See `Store.claim_lease`."""
        claim = super().claim_lease
        return self._on_reserve(lambda: claim(holder, expected_epoch=expected_epoch, ttl_ns=ttl_ns))

    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int, limit_ns: int | None = None) -> int | None:
        """See `Store.renew_lease`."""
        renew = super().renew_lease
        return self._on_reserve(lambda: renew(epoch=epoch, holder=holder, ttl_ns=ttl_ns, limit_ns=limit_ns))

    def _on_reserve(self, write: Callable[[], T]) -> T:
        """A write of the lease; on a full disk it is tried again with the room that was kept for it."""
        try:
            return write()
        except DiskFull:
            if self._reserve is None or not self._reserve.give():
                raise
        return write()

    def _now(self) -> tuple[sa.ColumnElement[int], int]:
        now_ns = self._clock_ns()
        return sa.literal(now_ns, sa.BigInteger), now_ns

    def write_unserved(self) -> AbstractContextManager[sa.Connection]:
        """A durable write transaction without a fence, on a catalogue that no replica serves."""
        self._prepare_encryption()
        return self._writing(urgent=False)

    def reclaim(self, *, bytes_max: int) -> int:
        """See `Store.reclaim`."""
        with self._reading() as transaction:
            free = int(_scalar(transaction, "PRAGMA freelist_count"))
            page_bytes = int(_scalar(transaction, "PRAGMA page_size"))
            # A file from before this setting reuses free pages but keeps them.
            gives_back = int(_scalar(transaction, "PRAGMA auto_vacuum")) == _AUTO_VACUUM_INCREMENTAL
        pages = min(free, max(1, bytes_max // page_bytes))
        if not gives_back or pages == 0:
            return 0
        with self._writing(urgent=False) as transaction:
            driver: Any = transaction.connection.driver_connection
            # Each step gives back a page and counts as a row, without columns.
            driver.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return pages * page_bytes

    def clear_traces(self, texts: Sequence[bytes]) -> bool:
        """See `Store.clear_traces`. The write-ahead log is taken into the file and cut to nothing."""
        give_up_at = time.monotonic() + _CLEAR_S
        while not self._checkpoint():
            if time.monotonic() >= give_up_at:
                return False
            time.sleep(_CLEAR_PAUSE_S)
        return not any(contains(path, texts) for path in (self.path, Path(f"{self.path}-wal")))

    def _clear_plain(self) -> None:
        """See `SqlStore._clear_plain`. Readers may keep the write-ahead log for a while; the next look at
        it, or its own end, takes it in.
        """
        self._checkpoint()

    def rewrite(self) -> None:
        """Write the whole file anew, without anything that rows have left behind. No replica may serve it:
        the lock is held for as long as that takes.
        """
        with translated(), self._writes.connect().execution_options(outside_transactions=True) as raw:
            raw.exec_driver_sql("VACUUM")
        self._checkpoint()

    def _checkpoint(self) -> bool:
        """Whether the write-ahead log is empty now; not while somebody still reads from it."""
        busy_s = self._config.busy_timeout_ms / 1000
        with (
            self._gate.enter(urgent=False, timeout_s=busy_s),
            translated(),
            self._writes.connect().execution_options(outside_transactions=True) as raw,
            # A writer that waits for readers to end would keep the lease waiting too.
            _waiting_for_lock(raw, 0.0, self._config.busy_timeout_ms),
        ):
            row = raw.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        return int(row[0]) == 0

    def _size_bytes(self, transaction: sa.Connection) -> int:
        return _file_bytes(self.path) + _file_bytes(Path(f"{self.path}-wal"))

    def watch_version(self) -> DataVersion:
        """See `Store.watch_version`."""
        with translated():
            return SqliteDataVersion(self._reads.connect())


@contextmanager
def _waiting_for_lock(connection: sa.Connection, timeout_s: float, usual_ms: int) -> Iterator[None]:
    """Inside, the connection waits for the file's lock for so long at most; afterwards as long as usual."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(f"PRAGMA busy_timeout={min(usual_ms, max(0, int(timeout_s * 1000)))}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout={usual_ms}")


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


def require_sqlite_file(path: Path) -> None:
    """Refuse what is no SQLite database: SQLite says so only at the first read, and takes a headless stump
    for a new file. Raises: SchemaMismatch, StoreDamaged.
    """
    size_bytes = _file_bytes(path)
    if size_bytes == 0:
        return
    with path.open("rb") as file:
        header = file.read(100)
    if header[:16] != b"SQLite format 3\x00":
        raise SchemaMismatch(f"{path} is not an SQLite database; nothing was changed")
    if size_bytes < 512:
        raise StoreDamaged(f"{path} is cut short after {size_bytes} bytes; restore it from a backup")


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def text_of(stored: bytes) -> str:
    """A stored text; bytes that are no text are kept, so that a checksum of them does not match."""
    return stored.decode("utf-8", "surrogateescape")


def contains(path: Path, texts: Sequence[bytes]) -> bool:
    """Whether any of the texts is among a file's bytes. A file that is not there holds none."""
    longest = max(map(len, texts), default=0)
    try:
        with path.open("rb") as file:
            before = b""
            while part := file.read(_SEARCH_BYTES):
                window = before + part
                if any(text in window for text in texts):
                    return True
                before = window[-longest:] if longest else b""
    except FileNotFoundError:
        pass
    return False


def _scalar(connection: sa.Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement).scalar()


# Extended result codes of SQLite (https://sqlite.org/rescode.html); the low byte is the primary code.
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26
_IOERR_SHMSIZE = 10 | 19 << 8


def translated() -> AbstractContextManager[None]:
    """Turn what the driver raises into the catalogue's errors."""
    return translating(sqlite.Error, _store_error)


def _store_error(error: BaseException | None) -> StoreError:
    """The only place that knows SQLite's codes."""
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
