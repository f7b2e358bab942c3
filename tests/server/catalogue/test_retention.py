"""When events are folded, by whom, and that a step stays short."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from server.catalogue.errors import StoreIOFailed, StoreUnavailable
from server.catalogue.retention import Retention, RetentionPolicy, RetentionStats
from server.catalogue.rows import LogRow
from server.catalogue.store import Store
from tests.server.catalogue.conftest import new_events, sequences
from tests.server.replica import wait_until

HOUR_US = 3_600_000_000
NOTHING = RetentionPolicy(events_max=0, hours=0, ids_max=1000, id_hours=1)


def row(sequence: int, committed_unix_us: int = 0) -> LogRow:
    return LogRow(sequence, 1, "e", committed_unix_us, b"", None)


def test_an_event_is_folded_once_it_is_too_old_or_beyond_the_newest() -> None:
    policy = RetentionPolicy(events_max=10, hours=2, ids_max=1, id_hours=1)
    wanted = policy.wanted(head_sequence=100, now_us=5 * HOUR_US)
    assert wanted(row(90, 5 * HOUR_US))
    assert not wanted(row(91, 5 * HOUR_US))
    assert not wanted(row(91, 3 * HOUR_US))
    assert wanted(row(91, 3 * HOUR_US - 1))


@pytest.mark.parametrize(
    ("policy", "folded"),
    [
        (NOTHING, False),
        (RetentionPolicy(events_max=1, hours=0, ids_max=1, id_hours=1), True),
        (RetentionPolicy(events_max=0, hours=1, ids_max=1, id_hours=1), True),
        (RetentionPolicy(events_max=100, hours=3, ids_max=1, id_hours=1), False),
    ],
)
def test_zero_is_no_bound(policy: RetentionPolicy, folded: bool) -> None:
    assert policy.wanted(head_sequence=100, now_us=2 * HOUR_US)(row(1)) is folded


def retention(store: Store, policy: RetentionPolicy, epoch: int | None = 1, **others: object) -> Retention:
    return Retention(store, policy, lambda: epoch, **others)  # type: ignore[arg-type]


def test_a_look_brings_the_log_within_its_bounds_and_forgets_old_ids(store: Store) -> None:
    for start in range(0, 600, 100):
        store.append([new_events(*(str(number) for number in range(start, start + 100)))], epoch=1)
    keeper = retention(store, RetentionPolicy(events_max=50, hours=0, ids_max=20, id_hours=1))
    keeper.look()
    assert sequences(store.read_range(551)) == list(range(551, 601))
    with store.view() as view:
        assert view.snapshot.sequence == 550
        assert [found.sequence for found in view.folded_ids()] == list(range(531, 551))
    stats = keeper.stats()
    assert (stats.folded_events, stats.forgotten_ids) == (550, 530)
    assert stats.held_ms_max > 0


def test_ids_are_forgotten_by_age(store: Store) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    now_us = 0
    policy = RetentionPolicy(events_max=1, hours=0, ids_max=1000, id_hours=2)
    keeper = retention(store, policy, now_us=lambda: now_us)
    with store.view() as view:
        written_us = list(view.log_rows())[-1].committed_unix_us
    now_us = written_us + 2 * HOUR_US
    keeper.look()
    assert keeper.stats().forgotten_ids == 0
    now_us += 1
    keeper.look()
    assert keeper.stats().forgotten_ids == 3


def test_a_standby_folds_nothing(store: Store) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    retention(store, RetentionPolicy(events_max=1, hours=0, ids_max=1, id_hours=1), epoch=None).look()
    assert sequences(store.read_range(1)) == [1, 2, 3, 4]


def test_the_thread_folds_what_comes_and_stops_when_told(store: Store) -> None:
    policy = RetentionPolicy(events_max=5, hours=0, ids_max=1000, id_hours=1, poll_s=0.01)
    keeper = retention(store, policy)
    keeper.start()
    for number in range(20):
        store.append([new_events(str(number))], epoch=1)
    wait_until(lambda: keeper.stats().folded_events == 15, "all but five are folded")
    assert keeper.stop()
    store.append([new_events("late")], epoch=1)
    assert keeper.stats().folded_events == 15


def test_what_an_operator_sees_of_folding(store: Store) -> None:
    store.append([new_events(*(str(number) for number in range(100)))], epoch=1)
    keeper = retention(store, RetentionPolicy(events_max=10, hours=0, ids_max=1000, id_hours=1))
    assert keeper.stats() == RetentionStats()
    before_us = time.time_ns() // 1000
    keeper.look()
    stats = keeper.stats()
    assert (stats.folded_events, stats.last_fold_events) == (90, 90)
    assert stats.last_fold_unix_us is not None and stats.last_fold_unix_us >= before_us
    assert stats.last_fold_ms >= stats.held_ms_max > 0
    assert stats.extent == store.extent()
    assert stats.extent.first_sequence == 91
    # A look that folds nothing leaves what the last fold was.
    keeper.look()
    assert replace(keeper.stats(), extent=None) == replace(stats, extent=None)


def test_a_standby_sees_how_much_is_there(store: Store) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    standby = retention(store, NOTHING, epoch=None)
    standby.look()
    assert standby.stats().extent == store.extent()


def test_failures_in_a_row_are_counted_until_one_succeeds(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    keeper = retention(store, RetentionPolicy(1, 0, 1, 1, poll_s=0.01))
    with monkeypatch.context() as patch:
        patch.setattr(store, "fold", _refuse)
        keeper.start()
        wait_until(lambda: keeper.stats().failures >= 3, "three failures")
    assert keeper.stats().problem == "the store is locked"
    assert caplog.text.count("the log is not folded: the store is locked") == 1
    wait_until(lambda: keeper.stats().folded_events == 3, "the fold")
    wait_until(lambda: keeper.stats().failures == 0, "the end of the failures")
    assert keeper.stats().problem == ""
    assert keeper.stop()


def _refuse(**_: object) -> None:
    raise StoreUnavailable("the store is locked")


@pytest.mark.parametrize(
    ("offset_us", "told"), [(-HOUR_US, True), (-1_000_000, False), (HOUR_US // 2, False)]
)
def test_a_wall_clock_behind_the_log_is_told_and_the_bound_by_number_still_holds(
    store: Store, caplog: pytest.LogCaptureFixture, offset_us: int, told: bool
) -> None:
    store.append([new_events(*"abcdefgh")], epoch=1)
    policy = RetentionPolicy(events_max=4, hours=1, ids_max=1000, id_hours=1, poll_s=0.01)
    keeper = retention(store, policy, now_us=lambda: time.time_ns() // 1000 + offset_us)
    keeper.start()
    wait_until(lambda: keeper.stats().folded_events == 4, "the bound by number")
    if told:
        wait_until(lambda: "the wall clock here is behind" in keeper.stats().problem, "the problem")
    assert keeper.stop()
    assert (caplog.text.count("the wall clock here is behind") == 1) is told
    assert keeper.stats().failures == 0
    assert sequences(store.read_range(5)) == [5, 6, 7, 8]


def test_a_wall_clock_that_jumps_ahead_folds_early_and_loses_nothing(store: Store) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    policy = RetentionPolicy(events_max=0, hours=1, ids_max=1000, id_hours=24)
    retention(store, policy, now_us=lambda: time.time_ns() // 1000 + 2 * HOUR_US).look()
    with store.view() as view:
        assert [row.sequence for row in view.log_rows()] == [4]
        assert [row.sequence for row in view.snapshot_rows()] == [1, 2, 3]
        assert [found.event_id for found in view.folded_ids()] == ["a", "b", "c"]
    # A late retry is still recognised.
    assert store.append([new_events("a")], epoch=1).batches[0].duplicates == 1


def test_a_failing_disk_ends_the_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    ended = threading.Event()
    monkeypatch.setattr(store, "fold", _fail)
    keeper = retention(store, RetentionPolicy(1, 0, 1, 1, poll_s=0.01), end_process=lambda error: ended.set())
    keeper.start()
    assert ended.wait(30)
    keeper.stop()


def _fail(**_: object) -> None:
    raise StoreIOFailed("fsync failed")
