"""Work of many callers collected into batches for one device, each batch in time for all of its members.

``Waiting`` decides: which calls make up the next batch, whether to wait for more, which calls are too late.
It is pure; ``Batcher`` adds the threads that ask it and run what it says. The rules:

- Nearest deadline first; a batch takes calls in that order while it has room.
- An idle device starts at once with what waits. A busy one waits for company: until a batch is full, until
  the latest start that is in time for its members has come, or until the device is idle.
- A batch is never started that is predicted to end after the deadline of one of its members. A call for
  which that holds even alone leaves with no result, before it costs the device anything; one whose
  deadline comes while its batch still runs leaves as well, and its result is dropped.
- The device is not trusted twice: after the first error, or a batch that does not end, all calls are turned
  away.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")
_Given = TypeVar("_Given", contravariant=True)
_Made = TypeVar("_Made", covariant=True)

# Batches on their way at a time: one that the device computes, one whose inputs are put together meanwhile.
LANES = 2
# Part of what the estimate learned about a slow moment that a call turned away takes back: without it one
# long stall would make all later calls look hopeless, and nothing would run that could prove otherwise.
_DOUBT = 0.1
# Weight of the newest batch in the estimate.
_LEARN = 0.1
# One batch counts as at most so many times its measured time: a single stall says little about the next one.
_OUTLIER = 10.0
# Deviations above the mean at which a batch is taken to end, as TCP's timer does (Jacobson 1988).
_DEVIATIONS = 4.0


# A batch that runs longer than this is taken for a device that hangs; a thousand times a usual one.
STALL_S = 2.0


class Closed(Exception):
    """The batcher has been closed, or its device has failed; the caller has to do without it."""


class Stalled(Exception):
    """A batch did not end."""


class Device(Protocol[_Given, _Made]):
    """What runs batches. Both methods are called from several threads at a time."""

    def seconds(self, works: Sequence[_Given]) -> float:
        """How long a batch of these took when it was measured on the idle device, seconds."""

    def run(self, works: Sequence[_Given]) -> Sequence[_Made]:
        """One result for each work, in their order. What it raises reaches the callers of all of them."""


class Estimate:
    """How much longer batches take than when they were measured, learned as they run. Not thread-safe."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._deviation = 0.0

    def seconds(self, measured_s: float) -> float:
        """A time in which a batch measured at ``measured_s`` is taken to end."""
        return measured_s * (self._ratio + _DEVIATIONS * self._deviation)

    def ran(self, measured_s: float, took_s: float) -> None:
        """A batch measured at ``measured_s`` took ``took_s``, seconds."""
        if measured_s <= 0.0:
            return
        off = min(took_s / measured_s, _OUTLIER) - self._ratio
        self._ratio += _LEARN * off
        self._deviation += _LEARN * (abs(off) - self._deviation)

    def doubt(self) -> None:
        """A call was turned away by this estimate."""
        if self._ratio > 1.0:
            self._ratio -= _DOUBT * (self._ratio - 1.0)
        self._deviation -= _DOUBT * self._deviation


@dataclass(eq=False)
class Call(Generic[Work, Result]):
    """One caller's work. items: what it adds to a batch. deadline_s: on the batcher's clock, or infinite."""

    work: Work
    items: int
    deadline_s: float
    done: threading.Event = field(default_factory=threading.Event)
    result: Result | None = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Batch(Generic[Work, Result]):
    """Calls that run together. measured_s: of all of them on the idle device."""

    calls: list[Call[Work, Result]]
    measured_s: float


@dataclass(frozen=True)
class Decision(Generic[Work, Result]):
    """What to do now. batch: to start; None: nothing. late: calls that leave. look_at_s: when to ask again if
    nothing happens before; infinite: not before something does.
    """

    batch: Batch[Work, Result] | None
    late: list[Call[Work, Result]]
    look_at_s: float = math.inf


class Waiting(Generic[Work, Result]):
    """The calls that wait, and the rules by which they become batches. Not thread-safe; has no clock.

    measured_s: seconds that a batch of these works takes on the idle device. items_max: a batch is full with
    so many; a larger call goes alone.
    """

    def __init__(self, measured_s: Callable[[Sequence[Work]], float], items_max: int) -> None:
        self._measured_s = measured_s
        self._items_max = items_max
        self._heap: list[tuple[float, int, Call[Work, Result]]] = []
        self._numbers = itertools.count()
        self.estimate = Estimate()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: Call[Work, Result]) -> None:
        """One more call."""
        heapq.heappush(self._heap, (call.deadline_s, next(self._numbers), call))

    def take(self, now_s: float, free_at_s: float | None) -> Decision[Work, Result]:
        """Decide at ``now_s``. free_at_s: when what the device runs is expected to end; None: it is idle."""
        begin_s = now_s if free_at_s is None else max(now_s, free_at_s)
        late = []
        while self._heap and begin_s + self._predicted_s([self._heap[0][2]]) > self._heap[0][0]:
            call = heapq.heappop(self._heap)[2]
            late.append(call)
            if begin_s + self._measured_s([call.work]) <= call.deadline_s:
                self.estimate.doubt()
        if not self._heap:
            return Decision(None, late)
        taken, full = self._fitting(begin_s)
        calls = [call for _, _, call in taken]
        measured_s = self._measured_s([call.work for call in calls])
        latest_s = calls[0].deadline_s - self.estimate.seconds(measured_s)
        # Behind a running batch it would begin at `free_at_s`, and by then there may be more to take along.
        if free_at_s is not None and not full and begin_s < latest_s:
            for entry in taken:
                heapq.heappush(self._heap, entry)
            return Decision(None, late, look_at_s=latest_s)
        return Decision(Batch(calls, measured_s), late)

    def clear(self) -> list[Call[Work, Result]]:
        """All calls, which wait no more."""
        calls = [call for _, _, call in self._heap]
        self._heap.clear()
        return calls

    def _predicted_s(self, calls: Sequence[Call[Work, Result]]) -> float:
        return self.estimate.seconds(self._measured_s([call.work for call in calls]))

    def _fitting(self, begin_s: float) -> tuple[list[tuple[float, int, Call[Work, Result]]], bool]:
        """Takes calls off the heap, nearest deadline first, that fit and that all end in time together.

        The first one is known to be in time alone. Returns them, and whether no further call could join.
        """
        taken = [heapq.heappop(self._heap)]
        items = taken[0][2].items
        while self._heap:
            following = self._heap[0][2]
            if items + following.items > self._items_max:
                return taken, True
            together = [call for _, _, call in taken] + [following]
            # The first one's deadline is the nearest.
            if begin_s + self._predicted_s(together) > taken[0][0]:
                return taken, True
            taken.append(heapq.heappop(self._heap))
            items += following.items
        return taken, items >= self._items_max


class Batcher(Generic[Work, Result]):
    """Runs calls from any thread on one device, in batches. End it with ``close``.

    on_failure: called once, from a thread of the batcher, with the first thing that the device raised.
    clock: seconds, monotonic. stall_s: how long a batch may run.
    """

    def __init__(
        self,
        device: Device[Work, Result],
        *,
        items_max: int,
        clock: Callable[[], float],
        on_failure: Callable[[Exception], None] = lambda error: None,
        lanes: int = LANES,
        stall_s: float = STALL_S,
        name: str = "device",
    ) -> None:
        self._device = device
        self._clock = clock
        self._on_failure = on_failure
        self._waiting: Waiting[Work, Result] = Waiting(device.seconds, items_max)
        self._changed = threading.Condition()
        self._stall_s = stall_s
        # Of each running batch, when it was started and when it is expected to end.
        self._running: dict[int, tuple[float, float]] = {}
        self._numbers = itertools.count()
        self._ended_s = -math.inf
        self._closed = False
        self._failed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{lane}", daemon=True) for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Work, items: int, deadline_s: float = math.inf) -> Result | None:
        """Wait for the work's result; None: it would have come after ``deadline_s``, on the batcher's clock.

        items: what it adds to a batch, at least 1. Raises: Closed; Stalled; what the device raised.
        """
        call: Call[Work, Result] = Call(work, items, deadline_s)
        with self._changed:
            if self._closed or self._failed:
                raise Closed("the device is not in use any more")
            self._waiting.add(call)
            self._changed.notify()
        while not call.done.wait(min(self._stall_s, max(0.0, deadline_s - self._clock()))):
            stalled = self._stalled()
            if stalled is not None:
                self._report(stalled)
                raise stalled
            if self._clock() >= deadline_s:
                # Where it still waits, it is too late for every batch.
                return None
        if call.error is not None:
            raise call.error
        return call.result

    def close(self, timeout_s: float = 5.0) -> None:
        """Turn all away that wait, finish what runs, end the threads. Idempotent, from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._turn_away()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _turn_away(self) -> None:
        with self._changed:
            calls = self._waiting.clear()
        _end(calls, Closed("the device is not in use any more"))

    def _stalled(self) -> Stalled | None:
        with self._changed:
            oldest_s = min((began_s for began_s, _ in self._running.values()), default=math.inf)
        ran_s = self._clock() - oldest_s
        return Stalled(f"a batch has been running for {ran_s:.1f} s") if ran_s > self._stall_s else None

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            number, batch = taken
            error: BaseException | None = None
            results: Sequence[Result] = ()
            try:
                results = self._device.run([call.work for call in batch.calls])
                if len(results) != len(batch.calls):
                    raise RuntimeError(f"{len(results)} results of {len(batch.calls)} works")
            except BaseException as raised:
                # Callers wait without an end of their own, so whatever it is they must hear of it.
                error = raised
            self._over(number, batch, error)
            if error is None:
                for call, result in zip(batch.calls, results, strict=True):
                    call.result = result
                    call.done.set()
                continue
            _end(batch.calls, error)
            if not isinstance(error, Exception):
                raise error
            self._report(error)

    def _next(self) -> tuple[int, Batch[Work, Result]] | None:
        """Wait for a batch to run; None: the batcher is closed."""
        with self._changed:
            while True:
                if self._closed:
                    return None
                now_s = self._clock()
                free_at_s = max((ends_s for _, ends_s in self._running.values()), default=None)
                decision = self._waiting.take(now_s, free_at_s)
                _end(decision.late, None)
                if decision.batch is not None:
                    number = next(self._numbers)
                    begin_s = now_s if free_at_s is None else max(now_s, free_at_s)
                    ends_s = begin_s + self._waiting.estimate.seconds(decision.batch.measured_s)
                    self._running[number] = (now_s, ends_s)
                    if len(self._waiting):
                        # The next lane decides about the rest.
                        self._changed.notify()
                    return number, decision.batch
                wait_s = decision.look_at_s - now_s
                self._changed.wait(None if math.isinf(wait_s) else max(wait_s, 0.0))

    def _over(self, number: int, batch: Batch[Work, Result], error: BaseException | None) -> None:
        with self._changed:
            now_s = self._clock()
            began_s, _ = self._running.pop(number)
            if error is None:
                # Behind another batch it began when that one ended.
                self._waiting.estimate.ran(batch.measured_s, now_s - max(began_s, self._ended_s))
            self._ended_s = now_s
            self._changed.notify_all()

    def _report(self, error: Exception) -> None:
        with self._changed:
            first = not self._failed
            self._failed = True
        if first:
            self._turn_away()
            self._on_failure(error)


def _end(calls: Sequence[Call[Work, Result]], error: BaseException | None) -> None:
    """Let callers go without a result, or with an error."""
    for call in calls:
        call.error = error
        call.done.set()
