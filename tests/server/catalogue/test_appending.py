from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue.appending import (
    Acknowledge,
    Announce,
    Appending,
    Command,
    EndProcess,
    LogWriterConfig,
    Refuse,
    TellExtended,
    TellFenced,
    Write,
    gave_up,
)
from server.catalogue.errors import (
    AppendTimeout,
    DiskFull,
    Fenced,
    LogOverloaded,
    NotPrimary,
    StoreIOFailed,
    StoreUnavailable,
)
from server.catalogue.store import Appended, Commit, NewEvent

CONFIG = LogWriterConfig(group_events_max=4, queue_events_max=10, commit_guess_ms=10)


@dataclass
class Caller:
    """taken_back: before its commit began. began: its commit has."""

    taken_back: bool = False
    began: bool = field(default=False, init=False)

    def set_running_or_notify_cancel(self) -> bool:
        self.began = not self.taken_back
        return self.began


def events(count: int) -> list[NewEvent]:
    return [NewEvent(f"e{number}", b"") for number in range(count)]


def submit(
    appending: Appending[Caller], count: int = 1, *, timeout_s: float = 100.0, taken_back: bool = False
) -> Caller:
    caller = Caller(taken_back)
    appending.submit(events(count), caller=caller, now_s=0.0, timeout_s=timeout_s, epoch=1)
    return caller


def written(commands: list[Command[Caller]]) -> list[Caller]:
    """Callers of the group that is to be written now."""
    last = commands[-1]
    assert isinstance(last, Write)
    return [waiting.caller for waiting in last.batches]


def test_a_group_is_what_fits_and_a_larger_batch_goes_alone() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    callers = [submit(appending, count) for count in (3, 1, 1, 4)]
    assert written(appending.begin(0.0, 1)) == callers[:2]
    appending.settle(Commit([Appended(3, 1, 0), Appended(4, 1, 0)], None), 0.0)
    assert written(appending.begin(0.0, 1)) == callers[2:3]
    appending.settle(DiskFull("full"), 0.0)
    assert written(appending.begin(0.0, 1)) == callers[3:]
    assert appending.idle


def test_what_was_taken_back_is_left_out_and_what_is_late_is_refused() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    gone = submit(appending, taken_back=True)
    late = submit(appending, timeout_s=1.0)
    patient = submit(appending)
    refusal, write = appending.begin(1.0, 1)
    assert isinstance(refusal, Refuse)
    assert refusal.waiting.caller is late
    assert isinstance(refusal.error, AppendTimeout)
    assert not refusal.error.outcome_unknown
    assert written([write]) == [patient]
    assert not gone.began


def test_an_ended_reign_refuses_what_waits() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    (refusal,) = appending.begin(0.0, None)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, NotPrimary)


def test_a_commit_is_told_to_keeper_and_tail_before_its_callers() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    submit(appending)
    appending.begin(0.0, 7)
    commands = appending.settle(Commit([Appended(5, 7, 0), Appended(6, 7, 1)], 99), 0.1)
    assert commands[:2] == [TellExtended(7, 99), Announce(6)]
    assert [type(command) for command in commands[2:]] == [Acknowledge, Acknowledge]
    assert appending.stats().duplicates == 1


def test_a_fenced_group_ends_the_reign_before_its_callers_hear_of_it() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    appending.begin(0.0, 7)
    told, refusal = appending.settle(Fenced(7, 8), 0.1)
    assert told == TellFenced(7)
    assert isinstance(refusal, Refuse)


def test_a_failed_fsync_ends_the_process_and_nobody_is_told_anything() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    appending.begin(0.0, 1)
    (command,) = appending.settle(StoreIOFailed("fsync"), 0.1)
    assert isinstance(command, EndProcess)


def test_a_long_queue_and_a_short_deadline_are_shed_but_an_idle_log_always_tries() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending, 4, timeout_s=0.001)
    with pytest.raises(LogOverloaded):
        submit(appending, timeout_s=0.019)
    submit(appending, 4, timeout_s=0.021)
    with pytest.raises(LogOverloaded):
        submit(appending, 3)
    assert appending.stats().shed == 2


def test_a_slow_commit_is_expected_again_within_two_and_a_fast_one_only_by_and_by() -> None:
    appending: Appending[Caller] = Appending(CONFIG)

    def commit(took_s: float) -> float:
        submit(appending)
        appending.begin(0.0, 1)
        appending.settle(Commit([Appended(1, 1, 0)], None), took_s)
        return appending.stats().commit_ms

    assert [round(commit(0.41)), round(commit(0.41))] == [210, 310]
    assert round(commit(0.01)) == 272
    for _ in range(30):
        commit(0.01)
    assert commit(0.01) < 20


def test_a_commit_that_already_takes_longer_than_expected_sheds_what_would_wait_for_the_next() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    appending.begin(0.0, 1)

    def arrive(now_s: float, timeout_s: float) -> None:
        appending.submit(events(1), caller=Caller(), now_s=now_s, timeout_s=timeout_s, epoch=1)

    arrive(0.005, 0.05)
    with pytest.raises(LogOverloaded):
        arrive(0.4, 0.5)
    arrive(0.4, 1.0)


def test_a_closed_log_takes_nothing_and_abandons_what_nobody_will_write() -> None:
    appending: Appending[Caller] = Appending(CONFIG)
    submit(appending)
    submit(appending, taken_back=True)
    appending.closed = True
    with pytest.raises(StoreUnavailable):
        submit(appending)
    assert len(appending.abandon(StoreUnavailable("closed"))) == 1
    assert appending.stats().queued_events == 0


@pytest.mark.parametrize("taken_back", [True, False])
def test_a_caller_that_gives_up_learns_what_is_certain(taken_back: bool) -> None:
    assert gave_up(taken_back=taken_back).outcome_unknown is not taken_back


Batches = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(0.001, 2)), min_size=1, max_size=20)


@given(Batches, st.floats(0, 1), st.integers(0, 2))
def test_every_append_ends_once_and_in_the_order_of_the_queue(
    batches: list[tuple[int, bool, float]], now_s: float, store: int
) -> None:
    appending: Appending[Caller] = Appending(LogWriterConfig(group_events_max=4, commit_guess_ms=0.01))
    queued = []
    for count, taken_back, timeout_s in batches:
        caller = Caller(taken_back)
        try:
            appending.submit(events(count), caller=caller, now_s=0.0, timeout_s=timeout_s, epoch=1)
        except LogOverloaded:
            continue
        queued.append(caller)
    ended: list[Caller] = []
    while not appending.idle:
        for command in appending.begin(now_s, 1):
            if isinstance(command, Refuse):
                ended.append(command.waiting.caller)
            elif isinstance(command, Write):
                done = Commit([Appended(1, 1, 0)] * len(command.batches), None)
                outcome = (done, DiskFull("full"), Fenced(1, 2))[store]
                for told in appending.settle(outcome, now_s):
                    if isinstance(told, Acknowledge | Refuse):
                        ended.append(told.waiting.caller)
    assert sorted(map(id, ended)) == sorted(id(caller) for caller in queued if not caller.taken_back)
    assert appending.stats().queued_events == 0
