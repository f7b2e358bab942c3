"""Follows the log: what any replica has committed reaches this replica's engine within milliseconds.

A thread on its own read connection asks SQLite every few milliseconds whether anything was committed, reads
what is new and hands it over in sequence. Delivery is at least once and never out of order; the engine skips
what it has, so a follower can start again from any sequence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.catalogue.errors import EventsFolded, StoreDamaged, StoreError
from server.catalogue.failpoint import freeze_tail
from server.catalogue.following import Following
from server.catalogue.store import DataVersion, Store

logger = logging.getLogger(__name__)

Deliver = Callable[[list[bytes]], int]
Observe = Callable[[int, int], None]


@dataclass(frozen=True)
class TailerConfig:
    """poll_ms: from one look to the next. batch_events_max: events handed over at once.

    retry_ms: from a failed look to the next.
    """

    poll_ms: float = 5.0
    batch_events_max: int = 1000
    retry_ms: float = 50.0


class Tailer:
    """Delivers committed events, in sequence, to a callback.

    store: the open store.
    deliver: takes serialised `SequencedEvent`s, ascending, and returns the sequence applied so far
    (`Generation.apply`). It runs in the tailer's thread. Whatever it raises ends the tailer, since a replica
    that skipped an event must not serve.
    applied_sequence: what `deliver`'s target holds already; the first event delivered is the next one.
    observe: called with (epoch, head sequence) at every look at the log that succeeded, also when nothing is
    new, so that staleness can be told; runs in the tailer's thread.
    on_failed: called once, in the tailer's thread, if it had to end.
    reload: called, in the tailer's thread, when events that the target lacks are folded into the snapshot:
    loads that and returns the sequence that the target then has.
    """

    def __init__(
        self,
        store: Store,
        deliver: Deliver,
        *,
        applied_sequence: int = 0,
        observe: Observe | None = None,
        on_failed: Callable[[BaseException], None] | None = None,
        reload: Callable[[], int] | None = None,
        config: TailerConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._observe = observe
        self._on_failed = on_failed
        self._reload = reload
        self._config = config or TailerConfig()
        self._clock = clock
        self._condition = threading.Condition()
        # Held while events are delivered, so that `switch` falls between two deliveries.
        self._delivering = threading.Lock()
        self._following = Following(applied_sequence, self._config.batch_events_max)
        self._looked_at_s: float | None = None
        self._moved_at_s: float | None = None
        self._asked_at_s: float | None = None
        self._refused_at_s: float | None = None
        self._freeze = freeze_tail()
        self._woken = False
        self._stopped = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="log-tailer", daemon=True)

    # --- for the owner -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start following."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the delivery in progress. False if it has not ended in time."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def switch(self, deliver: Deliver, applied_sequence: int) -> None:
        """Follow with another target from now on, between two deliveries: a new generation takes over.

        applied_sequence: what the new target holds; it may be behind or ahead of the old one. Returns once no
        delivery to the old target is in progress. Waiters of `wait_applied` then wait for the new target.
        """
        with self._delivering, self._condition:
            self._deliver = deliver
            self._following.switch(applied_sequence)
            self._woken = True
            self._condition.notify_all()

    # --- for everybody -----------------------------------------------------------------------------------

    @property
    def applied_sequence(self) -> int:
        """Every event up to this one has been delivered and applied."""
        return self._following.applied

    @property
    def head_sequence(self) -> int:
        """The last event that this replica has seen in the log."""
        return self._following.head

    @property
    def epoch(self) -> int:
        """The epoch of the last event seen, or 0."""
        return self._following.epoch

    @property
    def failure(self) -> BaseException | None:
        """Why the tailer ended by itself, or None."""
        return self._failure

    def staleness_s(self) -> float | None:
        """Seconds since this replica last knew that it had everything or less; None before the first look."""
        looked_at_s = self._looked_at_s
        return None if looked_at_s is None else max(0.0, self._clock() - looked_at_s)

    def stalled_s(self) -> float:
        """Seconds since the tailer last got a step further; 0 before it starts, and while it waits for the
        store, which ends its waits by itself and then counts as away."""
        moved_at_s = self._moved_at_s
        return (
            0.0
            if self._asked_at_s is not None or moved_at_s is None
            else max(0.0, self._clock() - moved_at_s)
        )

    def refused_s(self) -> float:
        """Seconds since the store was asked and has not answered, or since it first refused and no look has
        succeeded; 0 while it answers."""
        since_s = [at_s for at_s in (self._asked_at_s, self._refused_at_s) if at_s is not None]
        return max(0.0, self._clock() - min(since_s)) if since_s else 0.0

    def caught_up(self) -> bool:
        """All that was in the log at the last look is applied, and the tailer lives."""
        return self._looked_at_s is not None and self._following.caught_up and self._failure is None

    def wake(self, head_sequence: int = 0) -> None:
        """Look now instead of at the next poll. Give it to `LogWriter` as on_commit.

        head_sequence: known to be committed, which the store itself may tell later.
        """
        with self._condition:
            self._following.told(head_sequence)
            self._woken = True
            self._condition.notify_all()

    def wait_applied(self, sequence: int, timeout_s: float) -> bool:
        """Wait until everything up to `sequence` is applied here. False if it was not in time."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._following.applied >= sequence or self._failure is not None or self._stopped,
                timeout=max(0.0, timeout_s),
            )
            return self._following.applied >= sequence

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Wait until what is in the log now, read anew, is applied here, as a new primary does first.

        Raises: StoreError if the log cannot be read.
        """
        return self.wait_applied(self._store.head().sequence, timeout_s)

    # --- the tailer's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        following = self._following
        version: DataVersion | None = None
        while not self._stopped:
            pause_s = self._config.poll_ms / 1000
            self._moved_at_s = self._clock()
            self._freeze("look")
            try:
                with self._asking_store():
                    if version is None:
                        version = self._store.watch_version()
                    current = version.read()
                if following.due(current):
                    try:
                        self._look()
                    except EventsFolded as folded:
                        self._jump(folded)
                following.looked(current)
                self._looked_at_s = self._clock()
                self._refused_at_s = None
                if self._observe is not None:
                    self._observe(following.epoch, following.head)
            except StoreDamaged as damaged:
                self._fail(damaged)
                break
            except StoreError as error:
                logger.warning("cannot read the log, trying again: %s", error)
                if self._refused_at_s is None:
                    self._refused_at_s = self._clock()
                if version is not None:
                    version.close()
                version = None
                following.lost()
                pause_s = self._config.retry_ms / 1000
            except Exception as error:
                self._fail(error)
                break
            with self._condition:
                self._condition.wait_for(lambda: self._woken or self._stopped, timeout=pause_s)
                self._woken = False
        if version is not None:
            version.close()

    def _look(self) -> None:
        following = self._following
        applied_before = following.applied
        with self._asking_store():
            head = self._store.head()
        following.saw(head, applied_before)
        while not self._stopped:
            with self._delivering:
                wanted = following.wanted()
                if wanted is None:
                    return
                with self._asking_store():
                    events = self._store.read_range(wanted.first, wanted.last, events_max=wanted.events_max)
                following.read(wanted, len(events))
                self._freeze("deliver")
                applied = self._deliver(events)
                with self._condition:
                    following.delivered(wanted, len(events), applied)
                    self._condition.notify_all()

    @contextmanager
    def _asking_store(self) -> Iterator[None]:
        self._asked_at_s = self._clock()
        try:
            yield
        finally:
            self._moved_at_s = self._clock()
            self._asked_at_s = None

    def _jump(self, folded: EventsFolded) -> None:
        """Go on after the snapshot."""
        if self._reload is None:
            raise StoreDamaged(str(folded)) from folded
        logger.warning("%s; loading the snapshot", folded)
        self.switch(self._deliver, self._reload())

    def _fail(self, error: BaseException) -> None:
        logger.critical("no longer following the log: %s", error)
        with self._condition:
            self._failure = error
            self._condition.notify_all()
        if self._on_failed is not None:
            self._on_failed(error)
