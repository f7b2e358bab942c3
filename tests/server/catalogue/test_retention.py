"""When events are folded, by whom, and that a step stays short."""

from __future__ import annotations

import threading

import pytest

from server.catalogue.errors import StoreIOFailed
from server.catalogue.retention import Retention, RetentionPolicy
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
