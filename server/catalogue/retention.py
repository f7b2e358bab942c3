"""Keeps the log within its bounds: a thread of the primary folds old events into the snapshot, forgets the
ids of events folded long ago, and gives the room back to the disk.

All in small steps with pauses between them. A step holds the write lock, so an append may have to wait for
one: steps are sized by how long the ones before held it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from server.catalogue.errors import Fenced, StoreError, StoreIOFailed
from server.catalogue.log import end_process
from server.catalogue.rows import LogRow
from server.catalogue.store import Extent, Place, Store

logger = logging.getLogger(__name__)

_US_PER_HOUR = 3_600_000_000

# A step should hold the write lock no longer than this: about one commit of a full group on a slow disk.
_HELD_S = 0.01
_FOLD_EVENTS_MIN = 8
_FOLD_EVENTS_MAX = 512
# Room given back in one step: each page moved is written anew.
_RECLAIM_BYTES = 256 * 1024
_SEAL_ROWS = 500
_ENCRYPT_ROWS = 200
_FORGET_ROWS = 1000
# A step is followed by a pause this many times as long, so that a backlog leaves half of the disk to appends.
_PAUSE_SHARE = 1.0
_PAUSE_S_MIN = 0.002
# On a standby how much the store holds is looked at less often than the log.
_EXTENT_S = 10.0
# From one look through the whole log for feedback that is too old to the next.
_EMPTY_S = 3600.0
# Between machines whose clocks are kept by the network; more is a mistake.
_CLOCK_US_MAX = 60 * 1_000_000


@dataclass(frozen=True)
class RetentionPolicy:
    """What the log keeps. An event is folded once it is too old or beyond the newest `events_max`.

    events_max: 0: any number. hours: 0: of any age; age is by the wall clock. ids_max, id_hours: how many ids
    of folded events are known at most, and for how long after their events were written. feedback_events_max,
    feedback_days: feedback that was folded, as many and for so long; what is older is emptied in the log
    too. poll_s: from one look to the next.
    """

    events_max: int
    hours: float
    ids_max: int
    id_hours: float
    feedback_events_max: int = 10_000_000
    feedback_days: float = 395.0
    poll_s: float = 1.0

    def wanted(self, head_sequence: int, now_us: int) -> Callable[[LogRow], bool]:
        """Which events are to be folded."""
        last_by_count = head_sequence - self.events_max if self.events_max else 0
        oldest_us = now_us - int(self.hours * _US_PER_HOUR) if self.hours else 0

        def wanted(row: LogRow) -> bool:
            return row.sequence <= last_by_count or row.committed_unix_us < oldest_us

        return wanted


@dataclass(frozen=True)
class RetentionStats:
    """Counts since the start. held_ms_max: the longest time that a fold held the write lock.

    last_fold_unix_us: when the last look that folded anything ended, by the wall clock; None: none did.
    last_fold_events, last_fold_ms: how many it folded, and how long it took, its pauses included. failures:
    looks in a row that failed. problem: why the last one failed, or what makes its result doubtful; empty:
    nothing. extent: what the store held a short while ago; None: it was not looked at yet.
    """

    folded_events: int = 0
    forgotten_ids: int = 0
    expired_feedback: int = 0
    reclaimed_bytes: int = 0
    held_ms_max: float = 0.0
    last_fold_unix_us: int | None = None
    last_fold_events: int = 0
    last_fold_ms: float = 0.0
    failures: int = 0
    problem: str = ""
    extent: Extent | None = None


class Retention:
    """The thread. Folds only while this replica is the primary; looks how much the store holds on any.

    writing_epoch: the epoch this process may write in at this moment, or None. may_fold: asked last of an
    event that the policy lets go; what is not about a product must be elsewhere first. now_us: the wall
    clock. end_process: ends the process after an I/O error.
    """

    def __init__(
        self,
        store: Store,
        policy: RetentionPolicy,
        writing_epoch: Callable[[], int | None],
        *,
        may_fold: Callable[[LogRow], bool] = lambda row: True,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        end_process: Callable[[BaseException], None] = end_process,
    ) -> None:
        self._store = store
        self._policy = policy
        self._writing_epoch = writing_epoch
        self._may_fold = may_fold
        self._now_us = now_us
        self._end_process = end_process
        self._stopping = threading.Event()
        self._events_at_once = _FOLD_EVENTS_MIN
        self._sealed_epoch: int | None = None
        self._encrypted_epoch: int | None = None
        self._extent_due_s = 0.0
        self._empty_due_s = 0.0
        self._stats = RetentionStats()
        self._thread = threading.Thread(target=self._run, name="log-retention", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End it after the step in progress. False if it has not ended in time."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> RetentionStats:
        """What was done so far."""
        return self._stats

    def look(self) -> None:
        """Bring the log within its bounds, step by step. Raises: StoreError."""
        epoch = self._writing_epoch()
        if epoch is not None:
            self._bring_within_bounds(epoch)
            self._measure()
        elif time.monotonic() >= self._extent_due_s:
            # A store that is away is told by those who follow the log.
            with suppress(StoreError):
                self._measure()

    def _measure(self) -> None:
        self._extent_due_s = time.monotonic() + _EXTENT_S
        self._stats = replace(self._stats, extent=self._store.extent())

    def _bring_within_bounds(self, epoch: int) -> None:
        if self._sealed_epoch != epoch:
            # Once a reign: what an older version wrote before it. In its own reign every row gets its
            # checksum.
            while self._store.seal(epoch=epoch, rows_max=_SEAL_ROWS) == _SEAL_ROWS:
                if self._leave(_PAUSE_S_MIN):
                    return
            self._sealed_epoch = epoch
        if self._encrypted_epoch != epoch and self._encrypt(epoch):
            self._encrypted_epoch = epoch
        too_old = self._policy.wanted(self._store.head().sequence, self._now_us())
        folded_before, started_s = self._stats.folded_events, time.monotonic()
        self._repeat(lambda: self._fold(epoch, lambda row: too_old(row) and self._may_fold(row)))
        if folded := self._stats.folded_events - folded_before:
            self._stats = replace(
                self._stats,
                last_fold_unix_us=self._now_us(),
                last_fold_events=folded,
                last_fold_ms=(time.monotonic() - started_s) * 1000,
            )
            logger.info("folded %d events into the snapshot", folded)
        self._repeat(lambda: self._forget(epoch))
        self._repeat(lambda: self._expire(epoch))
        self._empty_old(epoch)
        self._repeat(self._reclaim)

    def _encrypt(self, epoch: int) -> bool:
        """Once a reign: what was written before there were keys. False: it was cut short."""
        place: Place | None = Place()
        while place is not None:
            place = self._store.encrypt(epoch=epoch, after=place, rows_max=_ENCRYPT_ROWS)
            if place is not None and self._leave(_PAUSE_S_MIN):
                return False
        return True

    def _repeat(self, step: Callable[[], float | None]) -> None:
        """Take steps until there is nothing left, with pauses. step: returns its seconds; None: nothing
        left.
        """
        while (took_s := step()) is not None:
            if self._leave(max(_PAUSE_S_MIN, _PAUSE_SHARE * took_s)):
                return

    def _leave(self, pause_s: float) -> bool:
        return self._stopping.wait(pause_s) or self._writing_epoch() is None

    def _fold(self, epoch: int, wanted: Callable[[LogRow], bool]) -> float | None:
        started_s = time.monotonic()
        folded = self._store.fold(epoch=epoch, wanted=wanted, events_max=self._events_at_once)
        if not folded.events:
            return None
        if folded.held_s > _HELD_S:
            self._events_at_once = max(_FOLD_EVENTS_MIN, self._events_at_once // 2)
        elif folded.held_s < _HELD_S / 2:
            self._events_at_once = min(_FOLD_EVENTS_MAX, self._events_at_once * 2)
        self._note(folded_events=folded.events, held_ms=folded.held_s * 1000)
        return time.monotonic() - started_s

    def _forget(self, epoch: int) -> float | None:
        started_s = time.monotonic()
        forgotten = self._store.forget_event_ids(
            epoch=epoch,
            committed_before_unix_us=self._now_us() - int(self._policy.id_hours * _US_PER_HOUR),
            ids_max=self._policy.ids_max,
            rows_max=_FORGET_ROWS,
        )
        self._note(forgotten_ids=forgotten)
        return time.monotonic() - started_s if forgotten else None

    def _expire(self, epoch: int) -> float | None:
        started_s = time.monotonic()
        expired = self._store.expire_feedback(
            epoch=epoch,
            committed_before_unix_us=self._feedback_before_us(),
            events_max=self._policy.feedback_events_max,
            rows_max=_FORGET_ROWS,
        )
        self._note(expired_feedback=expired)
        return time.monotonic() - started_s if expired else None

    def _empty_old(self, epoch: int) -> None:
        """Feedback that is too old while still in the log: only where the log is kept for longer than
        feedback.
        """
        before_us = self._feedback_before_us()
        extent = self._stats.extent
        if extent is None or not 0 < extent.first_committed_unix_us < before_us:
            return
        if time.monotonic() < self._empty_due_s:
            return
        first: int | None = 1
        while first is not None:
            done = self._store.erase_feedback(
                epoch=epoch,
                first_sequence=first,
                wanted=lambda row, feedback: row.committed_unix_us < before_us,
                rows_max=_FORGET_ROWS,
            )
            self._note(expired_feedback=done.log_events)
            first = done.next_sequence
            if self._leave(_PAUSE_S_MIN):
                return
        self._empty_due_s = time.monotonic() + _EMPTY_S

    def _feedback_before_us(self) -> int:
        return self._now_us() - int(self._policy.feedback_days * 24 * _US_PER_HOUR)

    def _reclaim(self) -> float | None:
        started_s = time.monotonic()
        reclaimed = self._store.reclaim(bytes_max=_RECLAIM_BYTES)
        self._note(reclaimed_bytes=reclaimed)
        return time.monotonic() - started_s if reclaimed else None

    def _note(
        self,
        folded_events: int = 0,
        forgotten_ids: int = 0,
        expired_feedback: int = 0,
        reclaimed_bytes: int = 0,
        held_ms: float = 0.0,
    ) -> None:
        before = self._stats
        self._stats = replace(
            before,
            folded_events=before.folded_events + folded_events,
            forgotten_ids=before.forgotten_ids + forgotten_ids,
            expired_feedback=before.expired_feedback + expired_feedback,
            reclaimed_bytes=before.reclaimed_bytes + reclaimed_bytes,
            held_ms_max=max(before.held_ms_max, held_ms),
        )

    def _run(self) -> None:
        while not self._stopping.wait(self._policy.poll_s):
            try:
                self.look()
            except Fenced:
                continue  # The lease's own thread notices and steps down.
            except StoreIOFailed as failure:
                self._end_process(failure)
            except StoreError as error:
                self._failed(str(error))
            except Exception as error:
                logger.exception("the log is not folded")
                self._failed(f"a defect: {type(error).__name__}, see the log of this process")
            else:
                self._succeeded()

    def _failed(self, problem: str) -> None:
        if problem != self._stats.problem:
            logger.warning("the log is not folded: %s", problem)
        self._stats = replace(self._stats, failures=self._stats.failures + 1, problem=problem)

    def _succeeded(self) -> None:
        """Nothing is wrong, as far as the clocks agree: ages are the difference of two machines' clocks."""
        extent = self._stats.extent
        problem = ""
        ahead_us = extent.last_committed_unix_us - self._now_us() if extent is not None else 0
        if ahead_us > _CLOCK_US_MAX:
            problem = (
                "the wall clock here is behind that of the log's last event by more than a minute: one of the"
                " two was wrong, and nothing is folded or forgotten by its age until it has caught up"
            )
        if problem and problem != self._stats.problem:
            logger.warning("%s (%d s)", problem, ahead_us // 1_000_000)
        self._stats = replace(self._stats, failures=0, problem=problem)
