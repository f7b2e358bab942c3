"""How appends become commits: a state machine without thread, clock, caller or store.

`Appending` decides which append is taken, shed or refused, which ones go into one commit, what the outcome of
that commit means for each of them, and in which order the others are told. It returns commands to carry out,
in order; `LogWriter` does so for real, the simulation does so in a world of crashes and pauses.

Two rules live here. Nothing is acknowledged before the commit that holds it is durable. And an append is
refused as "not written" only while that is certain: before its commit began, or when the store says so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from server.catalogue.errors import (
    AppendTimeout,
    Fenced,
    LogOverloaded,
    NotPrimary,
    StoreError,
    StoreIOFailed,
    StoreUnavailable,
)
from server.catalogue.store import Appended, Commit, NewEvent


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


class Caller(Protocol):
    """Whoever waits for an append; `concurrent.futures.Future` is one."""

    def set_running_or_notify_cancel(self) -> bool:
        """The commit begins now and can no longer be taken back. False: it was taken back before."""


C = TypeVar("C", bound=Caller)


@dataclass(frozen=True, eq=False)
class Waiting(Generic[C]):
    """One append in the queue. deadline_s: on the writer's monotonic clock."""

    events: Sequence[NewEvent]
    deadline_s: float
    caller: C


@dataclass(frozen=True)
class Write(Generic[C]):
    """Append all batches in one durable transaction, then `settle` its outcome. Always the last command."""

    epoch: int
    batches: tuple[Waiting[C], ...]


@dataclass(frozen=True)
class Acknowledge(Generic[C]):
    """Tell the caller that its batch is durable."""

    waiting: Waiting[C]
    appended: Appended


@dataclass(frozen=True)
class Refuse(Generic[C]):
    """Tell the caller why its batch was not written, or that this is not known."""

    waiting: Waiting[C]
    error: StoreError


@dataclass(frozen=True)
class TellExtended:
    """Tell the lease's keeper that the commit has moved the expiry of the lease."""

    epoch: int
    expires_ns: int


@dataclass(frozen=True)
class TellFenced:
    """Tell the lease's keeper that a later epoch has begun."""

    epoch: int


@dataclass(frozen=True)
class Announce:
    """Tell those who follow the log that it reaches to `sequence` now."""

    sequence: int


@dataclass(frozen=True)
class EndProcess:
    """End the process at once, telling no caller anything: what is durable is not known."""

    error: BaseException


Command = Write[C] | Acknowledge[C] | Refuse[C] | TellExtended | TellFenced | Announce | EndProcess


class Appending(Generic[C]):
    """The decisions. Not thread-safe; times are seconds of one monotonic clock."""

    def __init__(self, config: LogWriterConfig) -> None:
        self.closed = False
        self._config = config
        self._queue: deque[Waiting[C]] = deque()
        self._queued_events = 0
        self._group: tuple[Waiting[C], ...] = ()
        self._epoch = 0
        self._writing_since_s: float | None = None
        self._commit_s = config.commit_guess_ms / 1000
        self._commits = self._events = self._duplicates = self._shed = 0

    @property
    def idle(self) -> bool:
        """Nothing waits in the queue."""
        return not self._queue

    def stats(self) -> LogWriterStats:
        """The counters."""
        return LogWriterStats(
            self._commits,
            self._events,
            self._duplicates,
            self._shed,
            self._queued_events,
            self._commit_s * 1000,
        )

    def submit(
        self, events: Sequence[NewEvent], *, caller: C, now_s: float, timeout_s: float, epoch: int | None
    ) -> Waiting[C]:
        """Queue a batch. epoch: in which this process may write now, None if it may not.

        Raises, and then nothing was queued: ValueError for an empty batch, AppendTimeout, NotPrimary,
        StoreUnavailable once closed, LogOverloaded.
        """
        if not events:
            raise ValueError("a batch needs at least one event")
        if timeout_s <= 0:
            raise AppendTimeout(
                "the deadline had passed on arrival; nothing was written", outcome_unknown=False
            )
        if epoch is None:
            raise NotPrimary("this replica is not the primary; nothing was written")
        if self.closed:
            raise StoreUnavailable("the log is closed; nothing was written")
        self._shed_if_late(len(events), now_s, timeout_s)
        waiting = Waiting(events, now_s + timeout_s, caller)
        self._queue.append(waiting)
        self._queued_events += len(events)
        return waiting

    def _shed_if_late(self, events: int, now_s: float, timeout_s: float) -> None:
        """Refuse what cannot be durable in time. An idle log always tries, or no slow spell would end."""
        ahead_s, commit_s = 0.0, self._commit_s
        if self._writing_since_s is not None:
            took_s = now_s - self._writing_since_s
            ahead_s = max(0.0, commit_s - took_s)
            # A commit that takes longer than expected already tells of the next ones, though not yet its end.
            commit_s = max(commit_s, took_s)
        ahead_s += math.ceil(self._queued_events / self._config.group_events_max) * commit_s
        busy = self._queued_events > 0 or self._writing_since_s is not None
        full = self._queued_events > 0 and self._queued_events + events > self._config.queue_events_max
        if full or (busy and ahead_s + commit_s > timeout_s):
            self._shed += 1
            raise LogOverloaded(
                f"{self._queued_events} events wait to be written, about {ahead_s * 1000:.0f} ms of work; "
                "this append would miss its deadline and was not written",
                retry_after_ms=max(1, round(ahead_s * 1000)),
            )

    def begin(self, now_s: float, epoch: int | None) -> list[Command[C]]:
        """Take what fits into one commit. epoch: as for `submit`, at this moment.

        What was taken back is left out; what is too late, or has no reign to be written in, is refused.
        """
        group: list[Waiting[C]] = []
        commands: list[Command[C]] = []
        events = 0
        while self._queue:
            waiting = self._queue[0]
            if group and events + len(waiting.events) > self._config.group_events_max:
                break
            self._queue.popleft()
            self._queued_events -= len(waiting.events)
            if not waiting.caller.set_running_or_notify_cancel():
                continue
            if now_s >= waiting.deadline_s:
                self._shed += 1
                late = AppendTimeout(
                    "the deadline passed while the append was queued; nothing was written",
                    outcome_unknown=False,
                )
                commands.append(Refuse(waiting, late))
                continue
            group.append(waiting)
            events += len(waiting.events)
        if group and epoch is None:
            ended = NotPrimary("this replica stopped being the primary; nothing was written")
            commands += [Refuse(waiting, ended) for waiting in group]
        elif group and epoch is not None:
            self._group, self._epoch, self._writing_since_s = tuple(group), epoch, now_s
            commands.append(Write(epoch, self._group))
        return commands

    def settle(self, outcome: Commit | StoreError, now_s: float) -> list[Command[C]]:
        """What follows from the outcome of the Write: a durable commit, or the store's error."""
        group, epoch = self._group, self._epoch
        took_s = now_s - self._writing_since_s if self._writing_since_s is not None else 0.0
        self._group, self._writing_since_s = (), None
        if isinstance(outcome, StoreIOFailed):
            return [EndProcess(outcome)]
        if isinstance(outcome, StoreError):
            fenced: list[Command[C]] = [TellFenced(epoch)] if isinstance(outcome, Fenced) else []
            return fenced + [Refuse(waiting, outcome) for waiting in group]
        # Half of a slower one: while a disk is believed to be faster than it is, callers wait in vain. An
        # eighth of a faster one, which comes soon enough: a fast disk makes many.
        self._commit_s += (took_s - self._commit_s) / (2 if took_s > self._commit_s else 8)
        self._commits += 1
        self._events += sum(len(waiting.events) for waiting in group)
        self._duplicates += sum(result.duplicates for result in outcome.batches)
        commands: list[Command[C]] = []
        if outcome.lease_expires_ns is not None:
            commands.append(TellExtended(epoch, outcome.lease_expires_ns))
        commands.append(Announce(max(result.sequence for result in outcome.batches)))
        commands += [
            Acknowledge(waiting, result) for waiting, result in zip(group, outcome.batches, strict=True)
        ]
        return commands

    def abandon(self, error: StoreError) -> list[Command[C]]:
        """Refuse all that waits: there is nobody to write it."""
        waiting, self._queued_events = list(self._queue), 0
        self._queue.clear()
        return [Refuse(one, error) for one in waiting if one.caller.set_running_or_notify_cancel()]


def gave_up(*, taken_back: bool) -> AppendTimeout:
    """What a caller learns whose time is over. taken_back: its batch was queued, and is not any more."""
    if taken_back:
        return AppendTimeout(
            "the deadline passed while the append was queued; nothing was written", outcome_unknown=False
        )
    return AppendTimeout(
        "the deadline passed during the commit; it may have been written, send it again to learn",
        outcome_unknown=True,
    )
