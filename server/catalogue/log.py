"""The log's one writer: a thread that commits the appends of many callers together.

Each commit waits for the disk once, however many appends are in it, so throughput rises with load. Every
append has a deadline: one that cannot make it is shed before it is written; one whose deadline passes while
it is being written ends as "unknown", which sending it again settles, since events are idempotent.

Nothing is acknowledged before it is durable. After a failed fsync nobody can know what is, so the process
ends at once: what it had acknowledged is safe, and a standby takes over.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import NoReturn, Protocol

from muster.v1.catalogue_pb2 import Event
from server.catalogue.errors import (
    AppendTimeout,
    Fenced,
    LogOverloaded,
    NotPrimary,
    StoreError,
    StoreIOFailed,
    StoreUnavailable,
)
from server.catalogue.store import Appended, NewEvent, Store

logger = logging.getLogger(__name__)

# EX_IOERR of sysexits.h: tells the supervisor that the disk, not the program, is at fault.
EXIT_IO_ERROR = 74
# EX_SOFTWARE.
EXIT_BROKEN = 70


@dataclass(frozen=True)
class LogWriterConfig:
    """Sizes of the writer.

    group_events_max: events committed together; a single batch may be larger and then goes alone.
    queue_events_max: events that may wait; above it appends are shed at once.
    commit_guess_ms: expected duration of a commit before the first one was measured.
    """

    group_events_max: int = 128
    queue_events_max: int = 8192
    commit_guess_ms: float = 5.0


@dataclass(frozen=True)
class LogWriterStats:
    """Counts since the start. commit_ms: smoothed duration of a commit, lock and fsync included."""

    commits: int
    events: int
    duplicates: int
    shed: int
    queued_events: int
    commit_ms: float


@dataclass
class _Waiting:
    events: list[NewEvent]
    deadline_s: float
    future: Future[Appended]


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
        self._config = config or LogWriterConfig()
        self._on_commit = on_commit
        self._end_process = end_process
        self._clock = clock
        self._condition = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._queued_events = 0
        self._committing_since_s: float | None = None
        self._closed = False
        self._problem = ""
        self._commit_s = self._config.commit_guess_ms / 1000
        self._commits = self._events = self._duplicates = self._shed = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Start the writer's thread. Appends made earlier wait for it."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more appends, write those that wait, end the thread. False if it has not ended in time."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread.ident is None:
            self._fail_waiting(StoreUnavailable("the log is closed"))
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
                raise AppendTimeout(
                    "the deadline passed while the append was queued; nothing was written",
                    outcome_unknown=False,
                ) from None
            if future.done():
                return future.result()
            raise AppendTimeout(
                "the deadline passed during the commit; it may have been written, send it again to learn",
                outcome_unknown=True,
            ) from None

    def submit(self, events: Sequence[Event | NewEvent | bytes], timeout_s: float) -> Future[Appended]:
        """Queue a batch without waiting, for callers on an event loop (`asyncio.wrap_future`).

        Cancelling the future while the batch is queued takes it back; once its commit has begun, cancel()
        returns False. The future may end later than timeout_s if the disk is slow: the caller gives up by
        itself, and then the outcome is unknown.
        Raises: NotPrimary, LogOverloaded, StoreUnavailable, AppendTimeout, ValueError, at once; the future
        carries the others of `append`.
        """
        batch = [event if isinstance(event, NewEvent) else NewEvent.of(event) for event in events]
        if not batch:
            raise ValueError("a batch needs at least one event")
        if timeout_s <= 0:
            raise AppendTimeout(
                "the deadline had passed on arrival; nothing was written", outcome_unknown=False
            )
        if self._reign.writing_epoch() is None:
            raise NotPrimary("this replica is not the primary; nothing was written")
        now_s = self._clock()
        waiting = _Waiting(batch, now_s + timeout_s, Future())
        with self._condition:
            if self._closed:
                raise StoreUnavailable("the log is closed; nothing was written")
            self._shed_if_late(len(batch), now_s, timeout_s)
            self._queue.append(waiting)
            self._queued_events += len(batch)
            self._condition.notify()
        return waiting.future

    def stats(self) -> LogWriterStats:
        """A consistent copy of the counters."""
        with self._condition:
            return LogWriterStats(
                self._commits,
                self._events,
                self._duplicates,
                self._shed,
                self._queued_events,
                self._commit_s * 1000,
            )

    def _shed_if_late(self, events: int, now_s: float, timeout_s: float) -> None:
        """Refuse what cannot be durable in time. An idle log always tries, or no slow spell would end."""
        ahead_s = 0.0
        if self._committing_since_s is not None:
            ahead_s = max(0.0, self._commit_s - (now_s - self._committing_since_s))
        ahead_s += math.ceil(self._queued_events / self._config.group_events_max) * self._commit_s
        busy = self._queued_events > 0 or self._committing_since_s is not None
        full = self._queued_events > 0 and self._queued_events + events > self._config.queue_events_max
        if full or (busy and ahead_s + self._commit_s > timeout_s):
            self._shed += 1
            raise LogOverloaded(
                f"{self._queued_events} events wait to be written, about {ahead_s * 1000:.0f} ms of work; "
                "this append would miss its deadline and was not written",
                retry_after_ms=max(1, round(ahead_s * 1000)),
            )

    # --- the writer's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as broken:
            self._end_process(broken)

    def _write_until_closed(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                group = self._next_group()
                self._committing_since_s = self._clock()
            if group:
                self._commit(group)
            with self._condition:
                self._committing_since_s = None

    def _next_group(self) -> list[_Waiting]:
        """Take what fits into one commit, leaving out what was cancelled or is too late. Holds the lock."""
        group: list[_Waiting] = []
        events = 0
        now_s = self._clock()
        while self._queue:
            waiting = self._queue[0]
            if group and events + len(waiting.events) > self._config.group_events_max:
                break
            self._queue.popleft()
            self._queued_events -= len(waiting.events)
            if not waiting.future.set_running_or_notify_cancel():
                continue
            if now_s >= waiting.deadline_s:
                self._shed += 1
                waiting.future.set_exception(
                    AppendTimeout(
                        "the deadline passed while the append was queued; nothing was written",
                        outcome_unknown=False,
                    )
                )
                continue
            group.append(waiting)
            events += len(waiting.events)
        return group

    def _commit(self, group: list[_Waiting]) -> None:
        epoch = self._reign.writing_epoch()
        if epoch is None:
            _fail(group, NotPrimary("this replica stopped being the primary; nothing was written"))
            return
        started_s = self._clock()
        try:
            commit = self._store.append(
                [waiting.events for waiting in group], epoch=epoch, extend_ns=self._reign.lease_ttl_ns
            )
        except StoreIOFailed as failure:
            self._end_process(failure)
        except Fenced as fenced:
            self._reign.fenced(epoch)
            _fail(group, fenced)
            return
        except StoreError as store_error:
            if str(store_error) != self._problem:
                logger.warning("appends fail: %s", store_error)
            self._problem = str(store_error)
            _fail(group, store_error)
            return
        if self._problem:
            logger.info("appends succeed again")
            self._problem = ""
        took_s = self._clock() - started_s
        with self._condition:
            # One eighth of each new value: follows a slow disk within a few commits, forgets one outlier.
            self._commit_s += (took_s - self._commit_s) / 8
            self._commits += 1
            self._events += sum(len(waiting.events) for waiting in group)
            self._duplicates += sum(result.duplicates for result in commit.batches)
        if commit.lease_expires_ns is not None:
            self._reign.extended(epoch, commit.lease_expires_ns)
        if self._on_commit is not None:
            self._on_commit(max(result.sequence for result in commit.batches))
        for waiting, result in zip(group, commit.batches, strict=True):
            waiting.future.set_result(result)

    def _fail_waiting(self, error: StoreError) -> None:
        with self._condition:
            waiting, self._queued_events = list(self._queue), 0
            self._queue.clear()
        _fail([w for w in waiting if w.future.set_running_or_notify_cancel()], error)


def _fail(group: list[_Waiting], error: StoreError) -> None:
    for waiting in group:
        waiting.future.set_exception(error)
