"""The log's one writer: a thread that commits the appends of many callers together.

Each commit waits for the disk once, however many appends are in it, so throughput rises with load. Every
append has a deadline: one that cannot make it is shed before it is written; one whose deadline passes while
it is being written ends as "unknown", which sending it again settles, since events are idempotent.

Nothing is acknowledged before it is durable. After a failed fsync nobody can know what is, so the process
ends at once: what it had acknowledged is safe, and a standby takes over.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import NoReturn, Protocol

from muster.v1.catalogue_pb2 import Event
from server.catalogue.appending import (
    Acknowledge,
    Announce,
    Appending,
    Command,
    EndProcess,
    LogWriterConfig,
    LogWriterStats,
    Refuse,
    TellExtended,
    TellFenced,
    Write,
    gave_up,
)
from server.catalogue.errors import Fenced, StoreError, StoreIOFailed, StoreUnavailable
from server.catalogue.store import Appended, Commit, NewEvent, Store

__all__ = [
    "EXIT_BROKEN",
    "EXIT_IO_ERROR",
    "LogWriter",
    "LogWriterConfig",
    "LogWriterStats",
    "Reign",
    "end_process",
]

logger = logging.getLogger(__name__)

# EX_IOERR of sysexits.h: tells the supervisor that the disk, not the program, is at fault.
EXIT_IO_ERROR = 74
# EX_SOFTWARE.
EXIT_BROKEN = 70


class Reign(Protocol):
    """The right to write, as `server.standby.lease.LeaseKeeper` keeps it. Thread-safe, never blocks."""

    @property
    def lease_ttl_ns(self) -> int:
        """How far from now an append moves the expiry of the lease."""

    def writing_epoch(self) -> int | None:
        """The epoch this process may write in at this moment, or None."""

    def extended(self, epoch: int, expires_monotonic_ns: int) -> None:
        """An append has moved the expiry of the lease."""

    def fenced(self, epoch: int) -> None:
        """An append was refused because a later epoch has begun."""


def end_process(error: BaseException) -> NoReturn:
    """End the process without any clean-up, having said why. The default of `LogWriter`.

    Going on after a failed fsync, or past a broken invariant, could acknowledge what is not written.
    """
    if isinstance(error, StoreIOFailed):
        logger.critical("ending this replica: %s; nothing unacknowledged was reported as written", error)
        code = EXIT_IO_ERROR
    else:
        logger.critical("ending this replica: an invariant is broken", exc_info=error)
        code = EXIT_BROKEN
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(code)


class LogWriter:
    """Appends batches of events durably. Thread-safe.

    store: the open store. reign: says whether, and in which epoch, this process may write (a `LeaseKeeper`).
    on_commit: called in the writer's thread with the highest sequence after each commit, before the callers
    are answered; keep it short (`Tailer.wake`).
    end_process: ends the process after an I/O error or a broken invariant; must not return.
    """

    def __init__(
        self,
        store: Store,
        reign: Reign,
        *,
        config: LogWriterConfig | None = None,
        on_commit: Callable[[int], None] | None = None,
        end_process: Callable[[BaseException], NoReturn] = end_process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reign = reign
        self._on_commit = on_commit
        self._end_process = end_process
        self._clock = clock
        # Guards the state machine, which knows no threads.
        self._condition = threading.Condition()
        self._appending: Appending[Future[Appended]] = Appending(config or LogWriterConfig())
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Start the writer's thread. Appends made earlier wait for it."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more appends, write those that wait, end the thread. False if it has not ended in time."""
        with self._condition:
            self._appending.closed = True
            self._condition.notify_all()
        if self._thread.ident is None:
            with self._condition:
                commands = self._appending.abandon(StoreUnavailable("the log is closed"))
            self._carry_out(commands)
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def append(self, events: Sequence[Event | NewEvent | bytes], timeout_s: float) -> Appended:
        """Append a batch, whole or not at all, and wait until it is durable.

        events: Event messages, serialised ones, or NewEvent; at least one.
        timeout_s: longest wait, above 0.
        Raises: NotPrimary, Fenced, LogOverloaded, DiskFull, StoreUnavailable (nothing was written);
        AppendTimeout (see its `outcome_unknown`); ValueError for an empty batch or an event without event_id.
        """
        future = self.submit(events, timeout_s)
        try:
            return future.result(timeout=timeout_s)
        except FutureTimeout:
            if future.cancel():
                raise gave_up(taken_back=True) from None
            if future.done():
                return future.result()
            raise gave_up(taken_back=False) from None

    def submit(self, events: Sequence[Event | NewEvent | bytes], timeout_s: float) -> Future[Appended]:
        """Queue a batch without waiting, for callers on an event loop (`asyncio.wrap_future`).

        Cancelling the future while the batch is queued takes it back; once its commit has begun, cancel()
        returns False. The future may end later than timeout_s if the disk is slow: the caller gives up by
        itself, and then the outcome is unknown.
        Raises: NotPrimary, LogOverloaded, StoreUnavailable, AppendTimeout, ValueError, at once; the future
        carries the others of `append`.
        """
        batch = [event if isinstance(event, NewEvent) else NewEvent.of(event) for event in events]
        future: Future[Appended] = Future()
        epoch = self._reign.writing_epoch()
        with self._condition:
            self._appending.submit(
                batch, caller=future, now_s=self._clock(), timeout_s=timeout_s, epoch=epoch
            )
            self._condition.notify()
        return future

    def stats(self) -> LogWriterStats:
        """A consistent copy of the counters."""
        with self._condition:
            return self._appending.stats()

    # --- the writer's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as broken:
            self._end_process(broken)

    def _write_until_closed(self) -> None:
        appending = self._appending
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not appending.idle or appending.closed)
                if appending.idle:
                    return
                commands = appending.begin(self._clock(), self._reign.writing_epoch())
            outcome = self._carry_out(commands)
            if outcome is not None:
                with self._condition:
                    commands = appending.settle(outcome, self._clock())
                self._carry_out(commands)

    def _carry_out(self, commands: Sequence[Command[Future[Appended]]]) -> Commit | StoreError | None:
        """Carry the commands out, in order. Returns the outcome of a Write, which comes last."""
        for command in commands:
            match command:
                case Write():
                    return self._write(command)
                case Acknowledge(waiting, appended):
                    waiting.caller.set_result(appended)
                case Refuse(waiting, error):
                    waiting.caller.set_exception(error)
                case TellExtended(epoch, expires_ns):
                    self._reign.extended(epoch, expires_ns)
                case TellFenced(epoch):
                    self._reign.fenced(epoch)
                case Announce(sequence):
                    if self._on_commit is not None:
                        self._on_commit(sequence)
                case EndProcess(failure):
                    self._end_process(failure)
        return None

    def _write(self, write: Write[Future[Appended]]) -> Commit | StoreError:
        try:
            commit = self._store.append(
                [waiting.events for waiting in write.batches],
                epoch=write.epoch,
                extend_ns=self._reign.lease_ttl_ns,
            )
        except StoreError as error:
            if not isinstance(error, Fenced | StoreIOFailed):
                self._report(str(error))
            return error
        self._report("")
        return commit

    def _report(self, problem: str) -> None:
        """Log a problem of the store once, however many appends meet it."""
        if problem and problem != self._problem:
            logger.warning("appends fail: %s", problem)
        elif self._problem and not problem:
            logger.info("appends succeed again")
        self._problem = problem
