"""The store on a PostgreSQL server, for replicas of several machines.

SQLAlchemy Core over psycopg 3. An append first takes the row of the lease (`FOR NO KEY UPDATE`), so that
neither a claim nor another append falls into it, and is told to the followers with `NOTIFY`. Expiries are on
the server's clock, read within the statement that uses them; what a process is told is translated to its own
monotonic clock at once, so no clock of a replica matters.

Every wait ends: for a lock by `lock_timeout`, for a statement by `statement_timeout`, for a server that does
not answer by `Overdue`, and a transaction whose owner hangs by `idle_in_transaction_session_timeout`. The
commit alone has no time-out of the server's: cut short, it would report as done what no synchronous standby
has.
"""

from __future__ import annotations

import logging
import secrets
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.pool import QueuePool

from server.catalogue import encryption, schema
from server.catalogue.errors import (
    DiskFull,
    OutcomeUnknown,
    StoreDamaged,
    StoreError,
    StoreOccupied,
    StoreUnavailable,
)
from server.catalogue.gate import WriteGate
from server.catalogue.location import check_address
from server.catalogue.overdue import Overdue
from server.catalogue.sql import SqlStore, lease_row, translating
from server.catalogue.store import DataVersion, StoreConfig
from server.standby.lease import LeaseRow
from server.standby.sessions import LOCK_USE, WRITE_USE, ServerSessions, session_name, session_takeover
from server.standby.takeover import Takeover

logger = logging.getLogger(__name__)

# pg_terminate_backend with a time to wait, as a takeover needs it, came with 14.
SERVER_VERSION_MIN = 140000
CHANNEL = "muster_log"
# A primary that is frozen inside a transaction holds the lease's row for no longer.
IDLE_IN_TRANSACTION_MS = 500
# libpq takes whole seconds, at least two.
_CONNECT_TIMEOUT_S = 2
# Between two looks at the log without a notification: one may have been lost with its connection.
_LOOK_S = 0.1
# Of all replicas that start on one database: one at a time migrates it. "MUST", as in the SQLite file's
# header.
_MIGRATION_LOCK = 0x4D555354
_MIGRATION_S = 60.0
# Of a catalogue that is made from a backup, or repaired, as a whole.
_UNSERVED_S = 6 * 3600.0
# A session that was closed is still listed for a moment.
_UNUSED_S = 2.0
# A view that lasts longer belongs to a process that hangs, and keeps the server from clearing up.
_VIEW_S = 1800.0
# Where the server answers, its own time-outs come first: they say more.
_SLACK_S = 1.0
# SQLSTATEs. The server had ended the transaction before the COMMIT came.
_IDLE_IN_TRANSACTION = "25P03"
_LOCK_NOT_AVAILABLE = "55P03"
# Broken connections, and statements whose completion is unknown, as a proxy in between tells them.
_RESOLUTION_UNKNOWN = ("08", "40003")

_NOW = sa.literal_column("(extract(epoch FROM clock_timestamp()) * 1000000000)::bigint", sa.BigInteger)
_LEASE = sa.select(schema.lease, _NOW.label("now_ns")).where(schema.lease.c.name == schema.LEASE_NAME)
_LOCK_LEASE = (
    sa.select(schema.lease.c.epoch)
    .where(schema.lease.c.name == schema.LEASE_NAME)
    .with_for_update(key_share=True)
)
_NOTIFY = sa.select(sa.func.pg_notify(CHANNEL, ""))
_LAST_SEQUENCE = sa.select(sa.func.coalesce(sa.func.max(schema.log.c.sequence), 0))


class PostgresDataVersion(DataVersion):
    """Counts notifications of appends; now and then looks at the log itself."""

    def __init__(self, connection: sa.Connection, overdue: Overdue, limit_s: float) -> None:
        self._connection = connection
        self._overdue = overdue
        self._limit_s = limit_s
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        self._driver = driver
        self._version = 0
        self._sequence = 0
        self._look_at_s = 0.0
        with overdue.limit(driver.fileno(), limit_s):
            driver.execute(f"LISTEN {CHANNEL}")

    def read(self) -> int:
        """See `DataVersion.read`."""
        with translated():
            for _ in self._driver.notifies(timeout=0):
                self._version += 1
            now_s = time.monotonic()
            if now_s >= self._look_at_s:
                with self._overdue.limit(self._driver.fileno(), self._limit_s):
                    sequence = int(self._connection.execute(_LAST_SEQUENCE).scalar_one())
                self._version += sequence != self._sequence
                self._sequence = sequence
                self._look_at_s = now_s + _LOOK_S
            return self._version

    def close(self) -> None:
        """See `DataVersion.close`."""
        # Not back to the pool: the next owner would be sent the notifications.
        self._connection.invalidate()
        self._connection.close()


class PostgresStore(SqlStore):
    """The store on a server. Open with `PostgresStore.open`, which also checks the server."""

    def __init__(self, url: sa.URL, config: StoreConfig) -> None:
        """Use `PostgresStore.open`."""
        super().__init__(postgresql_insert, config.encryption_keys)
        self.location = url.render_as_string(hide_password=True)
        self._url = url.set(drivername="postgresql+psycopg")
        self._config = config
        self._busy_s = config.busy_timeout_ms / 1000
        self._limit_s = self._busy_s + _SLACK_S
        self._token = secrets.token_hex(4)
        self._gate = WriteGate()
        self._overdue = Overdue()
        self._warnings: list[str] = []
        self._seen_lock = threading.Lock()
        self._seen: tuple[tuple[int, str, int], LeaseRow] | None = None
        self._writes = self._engine(WRITE_USE, connections_max=1)
        sa.event.listen(self._writes, "connect", self._note_warnings)
        self._reads = self._engine("read", connections_max=config.readers_max)
        sa.event.listen(self._reads, "connect", _forbid_writes)
        self._sessions = self._engine(LOCK_USE, connections_max=2)

    # --- opening ---------------------------------------------------------------------------------------

    @classmethod
    def open(cls, address: str, config: StoreConfig | None = None) -> PostgresStore:
        """Open the catalogue in a database, creating its tables if there are none; check what is there.

        Raises: StoreUnavailable (not reachable, refuses the role, too old, a standby, does not flush to the
        disk), SchemaMismatch (a newer catalogue), StoreDamaged (tables or events missing).
        """
        store = cls(_url(address), config or StoreConfig())
        try:
            store._check_server()
            store._create_or_check()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def unchecked(cls, address: str, encryption_keys: str = "") -> PostgresStore:
        """The store at `address`, whose content nobody has looked at. Raises: StoreUnavailable."""
        return cls(_url(address), StoreConfig(client="inspection", encryption_keys=encryption_keys))

    def close(self) -> None:
        """See `Store.close`."""
        for engine in (self._sessions, self._reads, self._writes):
            engine.dispose()

    def _engine(self, use: str, *, connections_max: int) -> sa.Engine:
        """Connections for one use: a writer, readers, or sessions that are held for long."""
        writes = use == WRITE_USE
        options = {
            "synchronous_commit": "on",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_MS}ms",
            # After the other, so that a lock that is not free is told as such.
            "statement_timeout": f"{self._config.busy_timeout_ms + 500}ms",
            "lock_timeout": f"{self._config.busy_timeout_ms}ms",
            # So that the server, too, notices soon that a machine is gone.
            "tcp_keepalives_idle": "1",
            "tcp_keepalives_interval": "1",
            "tcp_keepalives_count": "3",
        }
        engine = sa.create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=connections_max,
            max_overflow=0,
            # What is written is nobody's business but the server's: not that of a message in a log.
            hide_parameters=True,
            execution_options={encryption.OPTION: self._encryption},
            pool_timeout=self._busy_s,
            isolation_level="READ COMMITTED" if writes else "AUTOCOMMIT",
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "application_name": session_name(use, self._token, self._config.client),
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
                "keepalives_idle": 1,
                "keepalives_interval": 1,
                "keepalives_count": 3,
                "tcp_user_timeout": self._config.busy_timeout_ms,
            },
        )

        @sa.event.listens_for(engine, "checkout")
        def on_checkout(connection: psycopg.Connection[Any], record: object, proxy: object) -> None:
            # A primary that hung has its sessions ended; the next claim must not fail for one of them.
            if connection.closed or _has_unread(connection):
                raise sa.exc.DisconnectionError("the server ended the session while nobody used it")

        @sa.event.listens_for(engine, "do_connect")
        def on_connecting(dialect: object, record: object, args: object, parameters: dict[str, Any]) -> None:
            if self._config.password_file is not None:
                parameters["password"] = _password(self._config)

        return engine

    def _note_warnings(self, connection: psycopg.Connection[Any], record: object) -> None:
        def note(message: psycopg.errors.Diagnostic) -> None:
            if message.severity_nonlocalized == "WARNING":
                self._warnings.append(message.message_primary or "a warning without a text")

        connection.add_notice_handler(note)

    def _check_server(self) -> None:
        with self._reading() as connection:
            version = int(_shown(connection, "server_version_num"))
            if version < SERVER_VERSION_MIN:
                raise StoreUnavailable(
                    f"{self.location} runs PostgreSQL {version // 10000}, Muster needs"
                    f" {SERVER_VERSION_MIN // 10000} or newer"
                )
            if connection.execute(sa.select(sa.func.pg_is_in_recovery())).scalar():
                raise StoreUnavailable(
                    f"{self.location} is a standby and takes no writes; name the primary, or several hosts"
                    " and target_session_attrs=read-write"
                )
            for setting in ("fsync", "full_page_writes"):
                if _shown(connection, setting) != "on":
                    raise StoreUnavailable(
                        f"{self.location} runs with {setting}=off and can lose acknowledged writes"
                    )
            if not _shown(connection, "synchronous_standby_names"):
                logger.warning(
                    "the store has no synchronous standby (synchronous_standby_names is empty): acknowledged"
                    " writes survive a crash of its server, but not the loss of its disk"
                )

    def _create_or_check(self) -> None:
        with self._reading() as connection:
            current = schema.is_current(connection)
        if not current:
            schema.load_migrations()
            with self._migrating(_MIGRATION_S) as transaction:
                created = schema.revision(transaction) is None
                schema.migrate(transaction)
                if created:
                    schema.name_catalogue(transaction)
        with self._viewing() as transaction:
            self.cluster_id = schema.cluster_id(transaction)
            self._encryption.check(transaction)
            self._check_log(transaction)

    # --- a catalogue that no replica serves -----------------------------------------------------------------

    @contextmanager
    def creating(self) -> Iterator[sa.Connection]:
        """One transaction at whose end a database that holds no catalogue holds a new one, without a row.

        Raises: StoreUnavailable, as `open`; StoreOccupied where there is a catalogue.
        """
        self._check_server()
        schema.load_migrations()
        with self._migrating(_UNSERVED_S) as transaction:
            if schema.revision(transaction) is not None:
                raise StoreOccupied(f"{self.location} holds a catalogue already")
            schema.migrate(transaction)
            schema.name_catalogue(transaction)
            self.cluster_id = schema.cluster_id(transaction)
            if self._encryption.due():
                # Used before it is committed: without the commit there is nothing that it was used for.
                self._encryption.use(self._encryption.renew(transaction))
            yield transaction

    def write_unserved(self) -> AbstractContextManager[sa.Connection]:
        """A durable write transaction without a fence, on a catalogue that no replica serves."""
        self._prepare_encryption()
        return self._migrating(_UNSERVED_S)

    def require_unused(self) -> None:
        """No other process of Muster has a session. Raises: StoreUnavailable, naming those that have."""
        give_up_at = time.monotonic() + _UNUSED_S
        while users := self._users():
            if time.monotonic() >= give_up_at:
                raise StoreUnavailable(
                    f"{self.location} is in use by {', '.join(users)};"
                    " stop every replica that serves it first"
                )
            time.sleep(0.05)

    def _users(self) -> list[str]:
        sessions = sa.text(
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'muster %'"
        )
        with self._reading() as connection:
            names = [str(name).split(" ", 3) for name in connection.execute(sessions).scalars()]
        return sorted({name[-1] for name in names if self._token not in name})

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def _migrating(self, limit_s: float) -> Iterator[sa.Connection]:
        """A transaction that one replica has at a time and that may take long."""
        with translated(), self._transaction(limit_s) as transaction:
            for timeout in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
                transaction.execute(sa.select(sa.func.set_config(timeout, f"{_MIGRATION_S:.0f}s", True)))
            transaction.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield transaction

    @contextmanager
    def _writing(self, *, urgent: bool, limit_ns: int | None = None) -> Iterator[sa.Connection]:
        limit_s = self._limit_s if limit_ns is None else min(self._limit_s, limit_ns / 1e9)
        with (
            self._gate.enter(urgent=urgent, timeout_s=min(self._busy_s, limit_s)),
            translated(),
            self._transaction(limit_s) as transaction,
        ):
            yield transaction

    @contextmanager
    def _transaction(self, limit_s: float) -> Iterator[sa.Connection]:
        with self._writes.connect() as connection, self._overdue.limit(_fd(connection), limit_s):
            transaction = connection.begin()
            try:
                yield connection
                connection.execute(sa.select(sa.func.set_config("statement_timeout", "0", True)))
            except BaseException:
                with _ignoring_lost_connections():
                    transaction.rollback()
                raise
            self._commit(transaction)

    def _commit(self, transaction: sa.RootTransaction) -> None:
        self._warnings.clear()
        try:
            transaction.commit()
        except sa.exc.DBAPIError as error:
            if _refused_commit(error.orig):
                raise
            raise OutcomeUnknown(
                "the connection to the store was lost during the commit; send the same events again"
            ) from error
        if self._warnings:
            # A commit that was cancelled while it waited for the synchronous standby ends like this.
            raise OutcomeUnknown(f"the store does not vouch for the commit: {self._warnings[0]}")

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with (
            translated(),
            self._reads.connect() as connection,
            self._overdue.limit(_fd(connection), self._limit_s),
        ):
            yield connection

    def viewing(self) -> AbstractContextManager[sa.Connection]:
        """A read transaction that sees one state throughout."""
        return self._viewing()

    @contextmanager
    def _viewing(self) -> Iterator[sa.Connection]:
        with translated(), self._reads.connect() as pooled:
            connection = pooled.execution_options(isolation_level="REPEATABLE READ")
            with self._overdue.limit(_fd(connection), _VIEW_S), connection.begin():
                # A build or a backup reads for long, and does other work between two rows.
                for timeout in ("statement_timeout", "idle_in_transaction_session_timeout"):
                    connection.execute(sa.select(sa.func.set_config(timeout, f"{_VIEW_S:.0f}s", True)))
                yield connection

    def reclaim(self, *, bytes_max: int) -> int:
        """See `Store.reclaim`. The server's autovacuum makes the room of deleted rows free for new ones."""
        return 0

    def clear_traces(self, texts: Sequence[bytes]) -> bool:
        """See `Store.clear_traces`. The two tables are written anew, which nobody can read or write
        meanwhile; what the server's own write-ahead log holds is the server's to recycle.
        """
        with translated(), self._sessions.connect() as pooled:
            connection = pooled.execution_options(isolation_level="AUTOCOMMIT")
            with self._overdue.limit(_fd(connection), _VIEW_S):
                connection.execute(sa.select(sa.func.set_config("statement_timeout", "0", False)))
                try:
                    for table in (schema.feedback, schema.log):
                        connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")
                except sa.exc.DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                        return False
                    raise
                finally:
                    # Not back to the pool, for whose owners every wait ends.
                    connection.invalidate()
        return True

    def _size_bytes(self, transaction: sa.Connection) -> int:
        tables = (sa.func.pg_total_relation_size(name) for name in schema.metadata.tables)
        return sum(int(size) for size in transaction.execute(sa.select(*tables)).one())

    def _begin_append(self, transaction: sa.Connection) -> None:
        transaction.execute(_LOCK_LEASE)

    def _end_append(self, transaction: sa.Connection) -> None:
        transaction.execute(_NOTIFY)

    def _now(self) -> tuple[sa.ColumnElement[int], int]:
        return _NOW, time.monotonic_ns()

    def watch_version(self) -> DataVersion:
        """See `Store.watch_version`."""
        with translated():
            connection = self._reads.connect()
            try:
                return PostgresDataVersion(connection, self._overdue, self._limit_s)
            except BaseException:
                # Not back to the pool, which cannot know that its session may be lost.
                connection.invalidate()
                connection.close()
                raise

    # --- the lease -------------------------------------------------------------------------------------

    def lease(self) -> LeaseRow | None:
        """See `Store.lease`. The same stored row is the same LeaseRow each time, whatever clocks did
        since.
        """
        with self._reading() as connection:
            row = connection.execute(_LEASE).first()
            seen_ns = time.monotonic_ns()
        if row is None:
            return None
        stored = (row.epoch, row.holder, row.expires_monotonic_ns)
        with self._seen_lock:
            if self._seen is None or self._seen[0] != stored:
                given_back = row.expires_monotonic_ns == 0
                expires_ns = 0 if given_back else seen_ns + row.expires_monotonic_ns - row.now_ns
                self._seen = stored, lease_row(row, expires_ns)
            return self._seen[1]

    def takeover(self, replica: str, *, ttl_ns: int) -> Takeover:
        """See `Store.takeover`."""
        limit_s = min(self._limit_s, ttl_ns / 1e9)
        sessions = ServerSessions(self._sessions, self._overdue, limit_s)
        return session_takeover(sessions, replica, token=self._token, clock=f"postgresql/{self.cluster_id}")


def _url(address: str) -> sa.URL:
    try:
        return sa.make_url(check_address(address))
    except (ValueError, sa.exc.ArgumentError) as error:
        raise StoreUnavailable(f"the store's address {error}") from error


def _forbid_writes(connection: psycopg.Connection[Any], record: object) -> None:
    # Only now: asked for at the start of the session, it would make a server that takes writes look like one
    # that does not (`target_session_attrs`).
    connection.execute("SET default_transaction_read_only = on")
    connection.commit()


def _has_unread(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has said something unasked: as a rule that the session is over."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _fd(connection: sa.Connection) -> int:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if driver.closed:
        connection.invalidate()
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
    return driver.fileno()


def _shown(connection: sa.Connection, setting: str) -> str:
    return str(connection.execute(sa.select(sa.func.current_setting(setting))).scalar_one())


def _password(config: StoreConfig) -> str:
    assert config.password_file is not None
    try:
        return config.password_file.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise StoreUnavailable(
            f"the password file {config.password_file} cannot be read: {reason}"
        ) from error


@contextmanager
def _ignoring_lost_connections() -> Iterator[None]:
    """What failed before says more than that nothing can be rolled back any more."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
        logger.debug("rolling back failed: %s", type(error).__name__)


def translated() -> AbstractContextManager[None]:
    """Turn what the driver raises into the catalogue's errors."""
    return translating(psycopg.Error, _store_error)


def _refused_commit(error: BaseException | None) -> bool:
    """The server's own word that nothing was committed. Whatever ends the session says only that it ended:
    a server that panics while it flushes the commit's record may find that record at its restart.
    """
    state = getattr(error, "sqlstate", None) or ""
    if state == _IDLE_IN_TRANSACTION:
        return True
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    return severity == "ERROR" and not state.startswith(_RESOLUTION_UNKNOWN)


def _store_error(error: BaseException | None) -> StoreError:
    """The only place that knows SQLSTATEs. Source: PostgreSQL's documentation, appendix "Error Codes"."""
    state = getattr(error, "sqlstate", None) or ""
    text = " ".join(str(error).split())
    match state:
        case "53100":
            return DiskFull("the disk of the store's server is full; nothing was written")
        case _ if state == _LOCK_NOT_AVAILABLE:
            return StoreUnavailable("the store is locked by another process; nothing was written")
        case "XX001" | "XX002":
            return StoreDamaged(f"the store is damaged: {text}; restore it from a backup")
        case "28000" | "28P01":
            return StoreUnavailable(f"the store's server refuses the role or its password: {text}")
    if state:
        return StoreUnavailable(f"the store's server refused: {text}")
    return StoreUnavailable(f"the store's server cannot be reached, or did not answer in time: {text}")
