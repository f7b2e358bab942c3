"""Batches by deadline: the rules with a made-up clock and device, the threads with real ones."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gpu.batcher import Batcher, Call, Closed, Estimate, Stalled, Waiting

FIXED_S = 0.001
ITEM_S = 0.0001
ITEMS_MAX = 16


@dataclass(frozen=True)
class Work:
    """Names its caller, so that a result which went astray is noticed."""

    number: int
    items: int


def measured_s(works: Sequence[Work]) -> float:
    return FIXED_S + ITEM_S * sum(work.items for work in works)


def waiting() -> Waiting[Work, int]:
    return Waiting(measured_s, ITEMS_MAX)


def call(number: int, items: int = 1, deadline_s: float = math.inf) -> Call[Work, int]:
    return Call(Work(number, items), items, deadline_s)


def numbers(calls: Sequence[Call[Work, int]]) -> list[int]:
    return [one.work.number for one in calls]


# --- the rules ---------------------------------------------------------------------------------------------


def test_an_idle_device_starts_at_once_with_all_that_waits_nearest_deadline_first() -> None:
    queue = waiting()
    for number, deadline_s in enumerate((3.0, 1.0, math.inf, 2.0)):
        queue.add(call(number, deadline_s=deadline_s))
    decision = queue.take(0.0, None)
    assert decision.batch is not None
    assert numbers(decision.batch.calls) == [1, 3, 0, 2]
    assert len(queue) == 0


def test_a_busy_device_waits_for_company_until_the_latest_start() -> None:
    queue = waiting()
    queue.add(call(0, deadline_s=0.1))
    first = queue.take(0.0, free_at_s=0.02)
    assert first.batch is None
    assert first.look_at_s == pytest.approx(0.1 - measured_s([Work(0, 1)]))
    queue.add(call(1, deadline_s=0.5))
    latest_s = 0.1 - measured_s([Work(0, 2)])
    second = queue.take(0.05, free_at_s=0.02)
    assert second.batch is None
    assert second.look_at_s == pytest.approx(latest_s)
    third = queue.take(second.look_at_s, free_at_s=0.02)
    assert third.batch is not None
    assert numbers(third.batch.calls) == [0, 1]


def test_at_the_latest_start_a_batch_begins_though_the_device_is_later_than_expected() -> None:
    queue = waiting()
    queue.add(call(0, deadline_s=0.1))
    latest_s = queue.take(0.0, free_at_s=0.02).look_at_s
    assert queue.take(latest_s - 0.001, free_at_s=0.02).batch is None
    assert queue.take(latest_s, free_at_s=0.02).batch is not None


def test_a_full_batch_does_not_wait_for_the_device() -> None:
    queue = waiting()
    for number in range(ITEMS_MAX + 1):
        queue.add(call(number))
    decision = queue.take(0.0, free_at_s=0.02)
    assert decision.batch is not None
    assert numbers(decision.batch.calls) == list(range(ITEMS_MAX))
    assert len(queue) == 1


def test_a_call_larger_than_a_batch_goes_alone() -> None:
    queue = waiting()
    queue.add(call(0, items=ITEMS_MAX + 5, deadline_s=1.0))
    queue.add(call(1, deadline_s=2.0))
    decision = queue.take(0.0, None)
    assert decision.batch is not None
    assert numbers(decision.batch.calls) == [0]


def test_a_call_that_cannot_be_in_time_leaves_and_takes_no_one_with_it() -> None:
    queue = waiting()
    queue.add(call(0, deadline_s=FIXED_S))
    queue.add(call(1, deadline_s=1.0))
    decision = queue.take(0.0, None)
    assert numbers(decision.late) == [0]
    assert decision.batch is not None
    assert numbers(decision.batch.calls) == [1]


def test_what_the_device_still_runs_counts_against_a_deadline() -> None:
    queue = waiting()
    queue.add(call(0, deadline_s=0.02))
    assert numbers(queue.take(0.0, free_at_s=0.019).late) == [0]


def test_company_that_would_make_the_nearest_deadline_be_missed_waits() -> None:
    queue = waiting()
    queue.add(call(0, items=1, deadline_s=FIXED_S + 3 * ITEM_S))
    queue.add(call(1, items=8, deadline_s=1.0))
    decision = queue.take(0.0, None)
    assert decision.batch is not None
    assert numbers(decision.batch.calls) == [0]
    assert len(queue) == 1


class Simulated:
    """A device with a made-up clock, run by ``Waiting`` as ``Batcher`` runs it with one batch at a time."""

    def __init__(self, slowdowns: Sequence[float]) -> None:
        self.queue = waiting()
        self.now_s = 0.0
        self.slowdowns = list(slowdowns)
        self.ran: list[list[int]] = []
        self.late: list[int] = []

    def turn(self) -> bool:
        known = copy.copy(self.queue.estimate)
        decision = self.queue.take(self.now_s, None)
        self.late += numbers(decision.late)
        for one in decision.late:
            # By what was known of the device it could not have ended in time.
            assert self.now_s + known.seconds(measured_s([one.work])) > one.deadline_s
        if decision.batch is None:
            return bool(decision.late)
        calls = decision.batch.calls
        predicted_s = self.queue.estimate.seconds(measured_s([one.work for one in calls]))
        assert self.now_s + predicted_s <= min(one.deadline_s for one in calls)
        deadlines = [one.deadline_s for one in calls]
        assert deadlines == sorted(deadlines)
        assert len(calls) == 1 or sum(one.items for one in calls) <= ITEMS_MAX
        took_s = decision.batch.measured_s * (self.slowdowns.pop() if self.slowdowns else 1.0)
        self.now_s += took_s
        self.queue.estimate.ran(decision.batch.measured_s, took_s)
        self.ran.append(numbers(calls))
        return True


arrivals = st.lists(
    st.tuples(
        st.floats(0.0, 0.05),
        st.integers(1, ITEMS_MAX + 4),
        st.one_of(st.just(math.inf), st.floats(0.0, 0.05)),
    ),
    max_size=40,
)


@given(arrivals, st.lists(st.floats(0.5, 20.0), max_size=20))
def test_no_call_is_lost_or_doubled_and_no_batch_starts_that_would_miss_a_deadline(
    arriving: list[tuple[float, int, float]], slowdowns: list[float]
) -> None:
    device = Simulated(slowdowns)
    rest = sorted((at_s, number, items, room_s) for number, (at_s, items, room_s) in enumerate(arriving))
    while rest or len(device.queue):
        while rest and rest[0][0] <= device.now_s:
            at_s, number, items, room_s = rest.pop(0)
            device.queue.add(call(number, items, at_s + room_s))
        if not device.turn() and rest:
            device.now_s = rest[0][0]
    ended = [number for batch in device.ran for number in batch] + device.late
    assert sorted(ended) == list(range(len(arriving)))


@given(arrivals, st.lists(st.floats(0.2, 8.0), max_size=30))
def test_with_a_second_batch_under_way_the_rules_hold_and_nobody_waits_for_ever(
    arriving: list[tuple[float, int, float]], slowdowns: list[float]
) -> None:
    queue = waiting()
    rest = sorted((at_s, number, items, room_s) for number, (at_s, items, room_s) in enumerate(arriving))
    running: list[tuple[float, float, float, float]] = []  # ends, is expected to, began, measured
    ended: list[int] = []
    now_s, turns = 0.0, 0
    while rest or len(queue) or running:
        turns += 1
        assert turns < 20 * (len(arriving) + 1), "no call makes progress"
        while rest and rest[0][0] <= now_s:
            at_s, number, items, room_s = rest.pop(0)
            queue.add(call(number, items, at_s + room_s))
        look_at_s = math.inf
        if len(running) < 2:
            free_at_s = max((expected_s for _, expected_s, _, _ in running), default=None)
            decision = queue.take(now_s, free_at_s)
            ended += numbers(decision.late)
            look_at_s = decision.look_at_s
            if decision.batch is not None:
                calls, measured = decision.batch.calls, decision.batch.measured_s
                begin_s = now_s if free_at_s is None else max(now_s, free_at_s)
                expected_s = begin_s + queue.estimate.seconds(measured)
                assert expected_s <= min(one.deadline_s for one in calls)
                began_s = max([now_s, *(ends_s for ends_s, _, _, _ in running)])
                slowdown = slowdowns.pop() if slowdowns else 1.0
                running.append((began_s + measured * slowdown, expected_s, began_s, measured))
                ended += numbers(calls)
                continue
            # It was asked to be looked at again only where it was not to be started yet.
            assert look_at_s > now_s
        events = [look_at_s, *(ends_s for ends_s, _, _, _ in running), *(at_s for at_s, *_ in rest[:1])]
        now_s = max(now_s, min(events))
        for done in [one for one in running if one[0] <= now_s]:
            running.remove(done)
            queue.estimate.ran(done[3], done[0] - done[2])
    assert sorted(ended) == list(range(len(arriving)))


# --- the estimate ------------------------------------------------------------------------------------------


def test_the_estimate_follows_a_device_that_became_slower() -> None:
    estimate = Estimate()
    assert estimate.seconds(0.01) == pytest.approx(0.01)
    for _ in range(100):
        estimate.ran(0.01, 0.03)
    assert 0.03 <= estimate.seconds(0.01) < 0.034


def test_an_unsteady_device_is_given_more_time_than_its_mean() -> None:
    estimate = Estimate()
    for number in range(200):
        estimate.ran(0.01, 0.01 if number % 2 else 0.02)
    assert estimate.seconds(0.01) > 0.02


def test_after_a_stall_calls_that_are_turned_away_make_room_for_themselves() -> None:
    queue = waiting()
    for _ in range(5):
        queue.estimate.ran(0.001, 10.0)
    turned_away = 0
    while True:
        queue.add(call(turned_away, deadline_s=1.5 * measured_s([Work(0, 1)])))
        if queue.take(0.0, None).batch is not None:
            break
        turned_away += 1
    assert 0 < turned_away < 60


def test_a_deadline_that_is_simply_too_near_says_nothing_about_the_device() -> None:
    queue = waiting()
    queue.estimate.ran(0.001, 0.003)
    before_s = queue.estimate.seconds(1.0)
    queue.add(call(0, deadline_s=FIXED_S / 2))
    assert numbers(queue.take(0.0, None).late) == [0]
    assert queue.estimate.seconds(1.0) == before_s


# --- the threads -------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """Answers each work with its number; holds batches while its gate is shut."""

    batches: list[list[int]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    short: bool = False

    def seconds(self, works: Sequence[Work]) -> float:
        return 1e-6 * len(works)

    def run(self, works: Sequence[Work]) -> list[int]:
        self.batches.append([work.number for work in works])
        self.begun.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return [work.number for work in works][: -1 if self.short else None]


def batcher(device: Fake, **more: object) -> Batcher[Work, int]:
    return Batcher(device, items_max=ITEMS_MAX, clock=time.monotonic, **more)  # type: ignore[arg-type]


class Caller(threading.Thread):
    """One call from a thread of its own."""

    def __init__(self, to: Batcher[Work, int], number: int, room_s: float = math.inf) -> None:
        super().__init__(daemon=True)
        self.to, self.number, self.room_s = to, number, room_s
        self.result: int | None = -1
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.to.run(Work(self.number, 1), 1, time.monotonic() + self.room_s)
        except Exception as error:
            self.error = error

    def ended(self) -> Caller:
        self.join(30)
        assert not self.is_alive(), f"caller {self.number} still waits"
        return self


def test_calls_that_wait_while_the_device_is_busy_run_together_and_each_gets_its_own_result() -> None:
    device = Fake()
    batching = batcher(device)
    callers = [Caller(batching, 0)]
    assert device.begun.wait(30)
    callers += [Caller(batching, number) for number in range(1, 9)]
    while len(batching._waiting) < 8:
        time.sleep(0.001)
    device.gate.set()
    assert [caller.ended().result for caller in callers] == list(range(9))
    assert [sorted(batch) for batch in device.batches] == [[0], list(range(1, 9))]
    batching.close()


def test_many_threads_lose_and_double_nothing() -> None:
    device = Fake()
    device.gate.set()
    batching = batcher(device)
    results: list[int | None] = []

    def many(first: int) -> None:
        for number in range(first, first + 200):
            results.append(batching.run(Work(number, 1 + number % 3), 1 + number % 3))

    threads = [threading.Thread(target=many, args=(200 * at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    batching.close()
    assert sorted(one for one in results if one is not None) == list(range(1200))
    assert sorted(number for batch in device.batches for number in batch) == list(range(1200))


def test_a_caller_whose_deadline_comes_while_its_batch_runs_leaves_without_a_result() -> None:
    device = Fake()
    batching = batcher(device)
    caller = Caller(batching, 0, room_s=0.05)
    assert device.begun.wait(30)
    assert caller.ended().result is None
    assert caller.error is None
    device.gate.set()
    batching.close()


def test_a_caller_whose_deadline_comes_while_it_waits_is_in_no_batch() -> None:
    device = Fake()
    batching = batcher(device, lanes=1)
    first = Caller(batching, 0)
    assert device.begun.wait(30)
    assert Caller(batching, 1, room_s=0.05).ended().result is None
    device.gate.set()
    assert first.ended().result == 0
    assert Caller(batching, 2).ended().result == 2
    assert device.batches == [[0], [2]]
    batching.close()


@pytest.mark.parametrize("short", [False, True], ids=["an error", "too few results"])
def test_what_goes_wrong_reaches_each_caller_of_the_batch_and_is_reported_once(short: bool) -> None:
    device = Fake()
    reported: list[Exception] = []
    batching = batcher(device, on_failure=reported.append, lanes=1)
    first = Caller(batching, 0)
    assert device.begun.wait(30)
    device.begun.clear()
    members = [Caller(batching, number) for number in range(1, 4)]
    while len(batching._waiting) < 3:
        time.sleep(0.001)
    first_gate, device.gate = device.gate, threading.Event()
    first_gate.set()
    assert first.ended().result == 0
    assert device.begun.wait(30)
    waiting_one = Caller(batching, 4)
    while len(batching._waiting) < 1:
        time.sleep(0.001)
    device.error, device.short = (None, True) if short else (MemoryError("out of memory"), False)
    device.gate.set()
    for caller in members:
        assert isinstance(caller.ended().error, RuntimeError if short else MemoryError)
    # Nobody trusts the device again.
    assert isinstance(waiting_one.ended().error, Closed)
    with pytest.raises(Closed):
        batching.run(Work(9, 1), 1)
    batching.close()
    assert [sorted(batch) for batch in device.batches] == [[0], [1, 2, 3]]
    assert len(reported) == 1


def test_a_device_that_hangs_is_given_up() -> None:
    device = Fake()
    reported: list[Exception] = []
    batching = batcher(device, on_failure=reported.append, stall_s=0.05)
    assert isinstance(Caller(batching, 0).ended().error, Stalled)
    with pytest.raises(Closed):
        batching.run(Work(1, 1), 1)
    assert [type(error) for error in reported] == [Stalled]
    device.gate.set()
    batching.close()


class OneByOne(Fake):
    """Each batch has a gate of its own."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.gates = [threading.Event() for _ in range(batches)]

    def run(self, works: Sequence[Work]) -> list[int]:
        gate = self.gates[len(self.batches)]
        self.batches.append([work.number for work in works])
        assert gate.wait(30)
        return [work.number for work in works]


def test_time_behind_another_batch_is_not_taken_for_a_batchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    device = OneByOne(2)
    batching: Batcher[Work, int] = Batcher(device, items_max=ITEMS_MAX, clock=lambda: now_s[0], stall_s=1e6)
    took: list[float] = []
    monkeypatch.setattr(batching._waiting.estimate, "ran", lambda measured, seconds: took.append(seconds))

    def call_from_a_thread(number: int) -> threading.Thread:
        thread = threading.Thread(target=lambda: batching.run(Work(number, 1), 1), daemon=True)
        thread.start()
        return thread

    callers = [call_from_a_thread(0)]
    while len(device.batches) < 1:
        time.sleep(0.001)
    # A full batch does not wait for the device: it is under way from 0 s on, but begins at 10 s.
    callers += [call_from_a_thread(number) for number in range(1, ITEMS_MAX + 1)]
    while len(device.batches) < 2:
        time.sleep(0.001)
    now_s[0] = 10.0
    device.gates[0].set()
    callers[0].join(30)
    while not took:
        time.sleep(0.001)
    now_s[0] = 13.0
    device.gates[1].set()
    for caller in callers:
        caller.join(30)
    batching.close()
    assert took == [10.0, 3.0]


def test_closing_turns_away_those_who_wait_and_finishes_what_runs() -> None:
    device = Fake()
    batching = batcher(device, lanes=1)
    running = Caller(batching, 0)
    assert device.begun.wait(30)
    waiting_one = Caller(batching, 1)
    while len(batching._waiting) < 1:
        time.sleep(0.001)
    closing = threading.Thread(target=batching.close)
    closing.start()
    assert isinstance(waiting_one.ended().error, Closed)
    device.gate.set()
    closing.join(30)
    assert running.ended().result == 0
    with pytest.raises(Closed):
        batching.run(Work(2, 1), 1)
