"""How the right to write leaves a replica on a PostgreSQL server: an advisory lock of the primary's session,
and the end of the sessions of one that hangs.

The server frees the lock the moment the connection of its holder breaks, as the kernel does with a dead
process. A holder that hangs keeps its connections; whoever finds its lease expired has the server end those
that hold locks. The process itself may be on another machine and is left alone: once it wakes, its sessions
are gone, its epoch is over, and it steps down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import psycopg
import sqlalchemy as sa

from server.catalogue.errors import StoreError
from server.catalogue.overdue import Overdue
from server.standby.lease import Holder
from server.standby.takeover import Takeover, this_process

logger = logging.getLogger(__name__)

WRITE_USE = "write"
LOCK_USE = "lock"
# "MUSL": the primary's lock, one for each database.
PRIMARY_LOCK = 0x4D55534C
_END_TIMEOUT_S = 1.0
_POLL_S = 0.003
_LOST = (sa.exc.SQLAlchemyError, psycopg.Error, StoreError)
_NAME_BYTES_MAX = 63

_TRY_LOCK = sa.select(sa.func.pg_try_advisory_lock(PRIMARY_LOCK))
_UNLOCK = sa.select(sa.func.pg_advisory_unlock(PRIMARY_LOCK))
_ALIVE = sa.select(sa.literal(1))
# The server itself waits for their end in steps of 100 ms, so it is asked only to begin.
_END_SESSIONS = sa.text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, :name)"
    " AND pid <> pg_backend_pid()"
)
_END_LOCK_HOLDERS = sa.text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_locks"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND NOT pid = ANY(:mine)"
)
_STILL_THERE = sa.text("SELECT pid FROM pg_stat_activity WHERE pid = ANY(:pids)")


def session_name(use: str, token: str, client: str) -> str:
    """The `application_name` of a session: what it is for, whose it is (a token), and the replica's name."""
    whole = f"muster {use} {token} {client}".rstrip()
    return whole.encode()[:_NAME_BYTES_MAX].decode(errors="ignore")


class ServerSessions:
    """Connections to the server for locks and for the end of others' sessions.

    engine: each statement is a transaction of its own. limit_s: longest wait for an answer.
    """

    def __init__(self, engine: sa.Engine, overdue: Overdue, limit_s: float) -> None:
        self._engine = engine
        self._overdue = overdue
        self._limit_s = limit_s

    def connect(self) -> sa.Connection:
        """A connection for as long as the caller likes. Raises: one of `_LOST`."""
        return self._engine.connect()

    def ask(
        self, connection: sa.Connection, statement: sa.Executable, values: dict[str, object] | None = None
    ) -> list[object]:
        """The first column of the answer. Raises: one of `_LOST`."""
        driver = connection.connection.driver_connection
        assert driver is not None
        with self._overdue.limit(driver.fileno(), self._limit_s):
            return list(connection.execute(statement, values or {}).scalars())

    def ended(self, statement: sa.Executable, values: dict[str, object]) -> bool:
        """Have sessions ended; True once all of them are gone, or there were none."""
        try:
            with self.connect() as connection:
                told = self.ask(connection, statement, values)
                give_up_at = time.monotonic() + _END_TIMEOUT_S
                while told and self.ask(connection, _STILL_THERE, {"pids": told}):
                    if time.monotonic() >= give_up_at:
                        return False
                    time.sleep(_POLL_S)
                return True
        except _LOST as error:
            logger.error(
                "the sessions of a hung primary could not be ended: %s; all replicas must use one role",
                _reason(error),
            )
            return False


class AdvisoryLock:
    """The lock of the primary, held by a session of its own (`KernelLock` of `server.standby.lease`)."""

    def __init__(self, sessions: ServerSessions) -> None:
        self._sessions = sessions
        self._connection: sa.Connection | None = None
        self._held = False
        self._problem = ""

    @property
    def pid(self) -> int:
        """The server's process for this session; 0: none."""
        driver = None if self._connection is None else self._connection.connection.driver_connection
        return 0 if driver is None else int(driver.info.backend_pid)

    def take(self) -> bool:
        """Try to take it, without waiting; True if it is held now."""
        if self._held and self.intact():
            return True
        taken = self._ask(_TRY_LOCK)
        if taken is not None:
            self._problem = ""
        self._held = bool(taken)
        return self._held

    def settle(self) -> None:
        """The claim succeeded; there is nothing to change."""

    def drop(self) -> None:
        """Free it, if it is held, and end the session."""
        if self._held:
            self._held = False
            # Sooner than the server notices that the session is gone.
            self._ask(_UNLOCK)
        self._forget()

    def intact(self) -> bool:
        """It is held: the session that took it lives."""
        if self._held:
            self._held = self._ask(_ALIVE) is not None
        return self._held

    def _ask(self, statement: sa.Executable) -> object | None:
        """The answer, or None where the session is lost; the next question is asked in a new one."""
        fresh = self._connection is None
        try:
            if self._connection is None:
                self._connection = self._sessions.connect()
            return self._sessions.ask(self._connection, statement)[0]
        except _LOST as error:
            self._forget()
            problem = _reason(error)
            if fresh and problem != self._problem:
                logger.warning("the primary's lock cannot be asked for: %s", problem)
            self._problem = problem
            return None

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_LOST):
                connection.invalidate()
            with suppress(*_LOST):
                connection.close()


class HungSessions:
    """Ends the sessions of holders that hang (`Executioner` of `server.standby.lease`)."""

    def __init__(self, sessions: ServerSessions, lock: AdvisoryLock) -> None:
        """lock: whose other holders may be ended."""
        self._sessions = sessions
        self._lock = lock

    def kill_holder(self, holder: Holder, still_hung: Callable[[], bool]) -> bool:
        """End the sessions with which `holder` writes and holds the lock; True once they are gone.

        still_hung: asked right before; False: they are left alone.
        """
        if not still_hung():
            return False
        logger.warning("ending the sessions of %s: it let its lease expire", holder.name)
        token = holder.name.rpartition("/")[2]
        # The lock last: it tells that a successor may begin, and finds the lease's row free.
        return all(
            self._sessions.ended(_END_SESSIONS, {"name": session_name(use, token, "")})
            for use in (WRITE_USE, LOCK_USE)
        )

    def kill_lock_holders(self, still_hung: Callable[[], bool]) -> bool:
        """End the sessions that have held the lock for long without a valid lease; True once nobody does."""
        if not still_hung():
            return False
        logger.warning("ending the session that holds the primary's lock: it has no lease")
        return self._sessions.ended(_END_LOCK_HOLDERS, {"lock": PRIMARY_LOCK, "mine": [self._lock.pid]})


def session_takeover(sessions: ServerSessions, replica: str, *, token: str, clock: str) -> Takeover:
    """The takeover among sessions of one server. token: in the names of this process's sessions. clock: names
    the server's clock, by which all leases of the store expire.
    """
    lock = AdvisoryLock(sessions)
    me = replace(this_process(replica), name=f"{replica}/{token}", boot_id=clock)
    return Takeover(me, lock, HungSessions(sessions, lock))


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())
