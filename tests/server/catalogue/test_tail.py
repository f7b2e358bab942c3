from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.catalogue.errors import StoreDamaged, StoreUnavailable
from server.catalogue.failpoint import FREEZE_TAIL
from server.catalogue.opening import open_store
from server.catalogue.store import Store
from server.catalogue.tail import Tailer, TailerConfig
from tests.server.catalogue.conftest import event_ids, new_events, sequences

# Long enough for a busy machine; no test waits for it to pass.
LONG_S = 30.0

MakeTailer = Callable[..., Tailer]


class Target:
    """An engine that remembers what it was given."""

    def __init__(self) -> None:
        self.deliveries: list[list[bytes]] = []

    def __call__(self, events: list[bytes]) -> int:
        self.deliveries.append(events)
        return sequences(events)[-1]

    @property
    def events(self) -> list[bytes]:
        return [data for delivery in self.deliveries for data in delivery]


@pytest.fixture
def make_tailer(location: str, store: Store) -> Iterator[MakeTailer]:
    """Follow through a store of its own, as another replica does."""
    follower = open_store(location)
    tailers = []

    def make(deliver: Callable[[list[bytes]], int], **arguments: object) -> Tailer:
        tailer = Tailer(follower, deliver, **arguments)  # type: ignore[arg-type]
        tailers.append(tailer)
        return tailer

    yield make
    for tailer in tailers:
        assert tailer.stop()
    follower.close()


def test_what_was_there_and_what_comes_is_delivered_in_sequence(
    make_tailer: MakeTailer, store: Store
) -> None:
    store.append([new_events("a", "b")], epoch=1)
    target = Target()
    tailer = make_tailer(target)
    tailer.start()
    assert tailer.wait_applied(2, LONG_S)
    for name in "cde":
        store.append([new_events(name)], epoch=1)
    assert tailer.wait_caught_up(LONG_S)
    assert event_ids(target.events) == ["a", "b", "c", "d", "e"]
    assert sequences(target.events) == [1, 2, 3, 4, 5]
    assert (tailer.applied_sequence, tailer.head_sequence, tailer.epoch) == (5, 5, 1)
    assert tailer.caught_up()


def test_following_resumes_after_the_sequence_that_is_applied(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    target = Target()
    tailer = make_tailer(target, applied_sequence=4)
    tailer.start()
    assert tailer.wait_applied(6, LONG_S)
    assert event_ids(target.events) == ["e", "f"]


def test_a_long_log_comes_in_batches(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events(*(f"{i}" for i in range(25)))], epoch=1)
    target = Target()
    tailer = make_tailer(target, config=TailerConfig(batch_events_max=10))
    tailer.start()
    assert tailer.wait_applied(25, LONG_S)
    assert [len(delivery) for delivery in target.deliveries] == [10, 10, 5]


def test_every_look_is_observed_even_when_nothing_is_new(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a")], epoch=1)
    seen: list[tuple[int, int]] = []
    often = threading.Event()

    def observe(epoch: int, head_sequence: int) -> None:
        seen.append((epoch, head_sequence))
        if len(seen) == 5:
            often.set()

    tailer = make_tailer(Target(), observe=observe)
    assert tailer.staleness_s() is None
    assert not tailer.caught_up()
    tailer.start()
    assert often.wait(LONG_S)
    assert set(seen) == {(1, 1)}
    assert tailer.staleness_s() is not None


def test_a_wake_is_faster_than_the_next_look(make_tailer: MakeTailer, store: Store) -> None:
    first = threading.Event()
    tailer = make_tailer(Target(), config=TailerConfig(poll_ms=3_600_000), observe=lambda *_: first.set())
    tailer.start()
    assert first.wait(LONG_S)
    store.append([new_events("a")], epoch=1)
    tailer.wake(1)
    assert tailer.wait_applied(1, LONG_S)


def test_waiting_for_what_is_not_written_ends_with_the_time(make_tailer: MakeTailer) -> None:
    tailer = make_tailer(Target())
    tailer.start()
    assert tailer.wait_applied(0, 0.0)
    assert not tailer.wait_applied(1, 0.02)


@pytest.mark.parametrize(("behind", "expected"), [(1, ["b", "c", "d"]), (3, ["d"])])
def test_a_new_target_gets_what_it_lacks_and_the_old_one_nothing_more(
    make_tailer: MakeTailer, store: Store, behind: int, expected: list[str]
) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    old, new = Target(), Target()
    tailer = make_tailer(old)
    tailer.start()
    assert tailer.wait_applied(3, LONG_S)
    tailer.switch(new, behind)
    store.append([new_events("d")], epoch=1)
    assert tailer.wait_applied(4, LONG_S)
    assert event_ids(new.events) == expected
    assert event_ids(old.events) == ["a", "b", "c"]


def test_an_unreadable_store_is_tried_again(
    make_tailer: MakeTailer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = type(store).watch_version, iter([1, 2, 3])

    def watch_version(self: Store) -> object:
        if next(failures, None) is not None:
            raise StoreUnavailable("not now")
        return real(self)

    monkeypatch.setattr(type(store), "watch_version", watch_version)
    store.append([new_events("a")], epoch=1)
    tailer = make_tailer(Target(), config=TailerConfig(retry_ms=1))
    tailer.start()
    assert tailer.wait_applied(1, LONG_S)
    assert next(failures, None) is None


def failing(
    make_tailer: MakeTailer, deliver: Callable[[list[bytes]], int], **arguments: object
) -> BaseException:
    """Start a tailer that ends by itself; its reason."""
    reasons: list[BaseException] = []
    ended = threading.Event()

    def on_failed(error: BaseException) -> None:
        reasons.append(error)
        ended.set()

    tailer = make_tailer(deliver, on_failed=on_failed, **arguments)
    tailer.start()
    assert ended.wait(LONG_S)
    assert tailer.failure is reasons[0]
    assert not tailer.caught_up()
    assert not tailer.wait_applied(10**6, LONG_S)
    return reasons[0]


def test_a_missing_event_ends_following(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    with store._writes.begin() as transaction:
        transaction.exec_driver_sql("DELETE FROM log WHERE sequence = 2")
    target = Target()
    error = failing(make_tailer, target)
    assert isinstance(error, StoreDamaged)
    assert "event 2 is missing" in str(error)


def test_a_log_that_ends_before_what_is_applied_ends_following(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a")], epoch=1)
    error = failing(make_tailer, Target(), applied_sequence=5)
    assert isinstance(error, StoreDamaged)
    assert "applied event 5, but the log ends at 1" in str(error)


def test_a_target_that_fails_ends_following(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a")], epoch=1)

    def broken(events: list[bytes]) -> int:
        raise ValueError("cannot apply")

    assert isinstance(failing(make_tailer, broken), ValueError)


def test_a_target_that_skips_events_ends_following(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a", "b")], epoch=1)
    error = failing(make_tailer, lambda events: 1)
    assert "events up to 2 were delivered, but only 1" in str(error)


def fold_to(store: Store, sequence: int) -> None:
    store.fold(epoch=1, wanted=lambda row: row.sequence <= sequence, events_max=100)


def test_a_follower_behind_the_snapshot_loads_it_and_goes_on_with_the_log(
    make_tailer: MakeTailer, store: Store
) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    fold_to(store, 4)
    target, reloads = Target(), []

    def reload() -> int:
        reloads.append(len(target.events))
        return 4

    tailer = make_tailer(target, reload=reload)
    tailer.start()
    assert tailer.wait_applied(6, LONG_S)
    assert reloads == [0]
    assert event_ids(target.events) == ["e", "f"]
    store.append([new_events("g")], epoch=1)
    assert tailer.wait_applied(7, LONG_S)
    assert reloads == [0]


def test_a_follower_that_cannot_load_a_snapshot_ends(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    fold_to(store, 2)
    failed = threading.Event()
    tailer = make_tailer(Target(), on_failed=lambda error: failed.set())
    tailer.start()
    assert failed.wait(LONG_S)
    assert isinstance(tailer.failure, StoreDamaged)
    assert "the log begins with event 3" in str(tailer.failure)


def test_a_snapshot_that_is_damaged_ends_the_following(make_tailer: MakeTailer, store: Store) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    fold_to(store, 2)
    failed = threading.Event()

    def reload() -> int:
        raise StoreDamaged("the snapshot's row of product 'p-a' does not match its checksum")

    tailer = make_tailer(Target(), reload=reload, on_failed=lambda error: failed.set())
    tailer.start()
    assert failed.wait(LONG_S)
    assert "'p-a'" in str(tailer.failure)


def test_a_tailer_that_is_stuck_in_a_delivery_is_seen_to_stand_still(
    make_tailer: MakeTailer, store: Store
) -> None:
    now_s = [100.0]
    entered, go_on = threading.Event(), threading.Event()

    def deliver(events: list[bytes]) -> int:
        entered.set()
        assert go_on.wait(LONG_S)
        return sequences(events)[-1]

    tailer = make_tailer(deliver, clock=lambda: now_s[0])
    assert tailer.stalled_s() == 0.0
    store.append([new_events("a")], epoch=1)
    tailer.start()
    assert entered.wait(LONG_S)
    now_s[0] = 107.0
    assert tailer.stalled_s() == 7.0
    go_on.set()
    assert tailer.wait_applied(1, LONG_S)
    wait_until(lambda: tailer.stalled_s() == 0.0)


def test_a_tailer_that_waits_for_the_store_does_not_stand_still(
    make_tailer: MakeTailer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    entered, go_on = threading.Event(), threading.Event()
    tailer = make_tailer(Target(), clock=lambda: now_s[0])
    follower = tailer._store
    head = follower.head

    def slow_head() -> object:
        entered.set()
        assert go_on.wait(LONG_S)
        return head()

    monkeypatch.setattr(follower, "head", slow_head)
    tailer.start()
    assert entered.wait(LONG_S)
    now_s[0] = 107.0
    assert tailer.stalled_s() == 0.0
    assert tailer.refused_s() == 7.0
    go_on.set()
    wait_until(lambda: tailer.refused_s() == 0.0)


def test_a_store_that_refuses_is_told_until_it_answers_again(
    make_tailer: MakeTailer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    tailer = make_tailer(Target(), clock=lambda: now_s[0])
    follower = tailer._store
    head = follower.head

    def refused() -> object:
        raise StoreUnavailable("away")

    tailer.start()
    wait_until(lambda: tailer.caught_up())
    assert tailer.refused_s() == 0.0
    monkeypatch.setattr(follower, "head", refused)
    store.append([new_events("a")], epoch=1)
    wait_until(lambda: tailer._refused_at_s is not None)
    now_s[0] = 107.0
    assert tailer.refused_s() == 7.0
    monkeypatch.setattr(follower, "head", head)
    assert tailer.wait_applied(1, LONG_S)
    wait_until(lambda: tailer.refused_s() == 0.0)


@pytest.mark.parametrize("place", ["look", "deliver"])
def test_a_drill_can_freeze_the_tailer_and_let_it_go_on(
    make_tailer: MakeTailer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(FREEZE_TAIL, str(tmp_path))
    tailer = make_tailer(Target())
    tailer.start()
    store.append([new_events("a")], epoch=1)
    assert tailer.wait_applied(1, LONG_S)
    (tmp_path / place).touch()
    if place == "deliver":
        store.append([new_events("b")], epoch=1)
    wait_until(lambda: tailer.stalled_s() > 0.1)
    store.append([new_events("c")], epoch=1)
    assert tailer.applied_sequence == 1
    (tmp_path / place).unlink()
    assert tailer.wait_applied(store.head().sequence, LONG_S)


def test_without_the_variable_nothing_freezes(
    make_tailer: MakeTailer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FREEZE_TAIL, raising=False)
    monkeypatch.chdir(tmp_path)
    for place in ("look", "deliver"):
        (tmp_path / place).touch()
    store.append([new_events("a")], epoch=1)
    tailer = make_tailer(Target())
    tailer.start()
    assert tailer.wait_applied(1, LONG_S)


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)
