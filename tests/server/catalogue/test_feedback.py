"""Feedback in the store: kept when it is folded, gone when it is old, out of the files when its shopper is
erased.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from muster.v1.catalogue_pb2 import Event, SequencedEvent
from muster.v1.feedback_pb2 import FEEDBACK_KIND_CLICK, Feedback
from server.catalogue.errors import Fenced
from server.catalogue.export import export_backup, restore_backup
from server.catalogue.opening import open_store
from server.catalogue.retention import Retention, RetentionPolicy
from server.catalogue.sqlite import contains
from server.catalogue.store import NewEvent, Store
from server.catalogue.verify import verify_store
from tests.server.catalogue.conftest import new_events, raw_connection

ANNA, BERT = "00000001-90-1-" + "a" * 32, "00000001-90-1-" + "b" * 32


def click(number: int, shopper: str, session: str = "") -> NewEvent:
    feedback = Feedback(
        kind=FEEDBACK_KIND_CLICK,
        product_id=f"p{number}",
        shopper=shopper,
        session=session,
        comment=f"words of {shopper} " * 60,
    )
    return NewEvent.of(Event(event_id=f"feedback/{number}", feedback=feedback))


def fill(store: Store) -> None:
    """Twelve events: products, and clicks of two shoppers in turn."""
    for number in range(6):
        store.append(
            [[click(number, ANNA if number % 2 else BERT)], new_events(f"product {number}")], epoch=1
        )


def shoppers(store: Store) -> list[str]:
    with store.view() as view:
        return [feedback.shopper for _, feedback in view.feedback()]


def fold(store: Store, last: int) -> None:
    while store.fold(epoch=1, wanted=lambda row: row.sequence <= last, events_max=5).events:
        pass


def is_annas(row: object, feedback: Feedback) -> bool:
    return feedback.shopper == ANNA


def erase(store: Store, rows_max: int = 3) -> tuple[int, int]:
    log = folded = 0
    first: int | None = 1
    while first is not None:
        done = store.erase_feedback(epoch=1, first_sequence=first, wanted=is_annas, rows_max=rows_max)
        log, folded, first = log + done.log_events, folded + done.folded_events, done.next_sequence
    return log, folded


def test_folding_keeps_feedback_as_it_was(store: Store, location: str) -> None:
    fill(store)
    before = shoppers(store)
    fold(store, 8)
    assert shoppers(store) == before == [BERT, ANNA] * 3
    with store.view() as view:
        assert [row.sequence for row in view.folded_feedback()] == [1, 3, 5, 7]
    report = verify_store(location)
    assert report.sound, report.problems
    assert report.folded_feedback == 4
    # Sent again, it is known.
    assert store.append([[click(0, BERT)]], epoch=1).batches[0].duplicates == 1


def test_what_is_old_or_too_much_expires(store: Store) -> None:
    fill(store)
    fold(store, 8)
    assert store.expire_feedback(epoch=1, committed_before_unix_us=0, events_max=4, rows_max=9) == 0
    assert store.expire_feedback(epoch=1, committed_before_unix_us=0, events_max=2, rows_max=9) == 2
    assert shoppers(store) == [BERT, ANNA] * 2
    assert store.expire_feedback(epoch=1, committed_before_unix_us=2**62, events_max=9, rows_max=1) == 1
    assert store.expire_feedback(epoch=1, committed_before_unix_us=2**62, events_max=9, rows_max=9) == 1
    # In the log it is emptied: the log has no gaps.
    assert shoppers(store) == [BERT, ANNA]


@pytest.mark.parametrize("folded", [0, 5, 8])
def test_an_erased_shopper_is_out_of_log_and_feedback_and_the_others_stay(
    store: Store, location: str, folded: int
) -> None:
    fill(store)
    fold(store, folded)
    assert sum(erase(store)) == 3
    assert shoppers(store) == [BERT] * 3
    assert erase(store) == (0, 0)
    report = verify_store(location)
    assert report.sound, report.problems
    assert report.head_sequence == 12
    # The id of an emptied event is still known; a follower reads on without a gap.
    assert store.append([[click(1, ANNA)]], epoch=1).batches[0].duplicates == 1
    rest = store.read_range(folded + 1)
    assert [SequencedEvent.FromString(data).sequence for data in rest] == list(range(folded + 1, 13))


def test_nothing_of_an_erased_shopper_is_left_in_the_bytes_of_the_file(store: Store, path: Path) -> None:
    fill(store)
    fold(store, 5)
    texts = [ANNA.encode()]
    wal = Path(f"{path}-wal")
    assert contains(path, texts) or contains(wal, texts)
    erase(store)
    # Deleting alone is not enough: the write-ahead log still has the pages of before.
    assert contains(wal, texts)
    assert store.clear_traces(texts)
    assert not contains(path, texts)
    assert not contains(wal, texts)
    assert contains(path, [BERT.encode()])


def test_traces_that_cannot_be_cleared_are_told(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.catalogue.sqlite._CLEAR_S", 0.05)
    fill(store)
    with store.view() as view:
        next(view.feedback())
        # A reader that began before holds the write-ahead log.
        erase(store)
        assert not store.clear_traces([ANNA.encode()])
    assert store.clear_traces([ANNA.encode()])


def test_a_database_is_written_anew(store: Store) -> None:
    fill(store)
    fold(store, 5)
    erase(store)
    assert store.clear_traces([ANNA.encode()])
    assert shoppers(store) == [BERT] * 3


def test_a_backup_holds_feedback_and_brings_it_back(
    store: Store, location: str, elsewhere: str, tmp_path: Path
) -> None:
    fill(store)
    fold(store, 7)
    written = export_backup(location, tmp_path / "backup")
    restored = restore_backup(tmp_path / "backup", elsewhere)
    assert restored.digest == written.digest == verify_store(elsewhere).digest
    with closing(open_store(elsewhere)) as other:
        assert shoppers(other) == shoppers(store)


def test_a_fence_holds_for_all_of_it(store: Store) -> None:
    fill(store)
    fold(store, 5)
    for call in (
        lambda: store.erase_feedback(epoch=7, first_sequence=1, wanted=is_annas, rows_max=50),
        lambda: store.expire_feedback(epoch=7, committed_before_unix_us=2**62, events_max=0, rows_max=9),
    ):
        with pytest.raises(Fenced):
            call()
    assert shoppers(store) == [BERT, ANNA] * 3


def test_the_first_to_say_what_all_must_have_decides(store: Store) -> None:
    assert store.agree_on("a key", "one") == "one"
    assert store.agree_on("a key", "two") == "one"


def test_damaged_feedback_is_named(store: Store, path: Path) -> None:
    fill(store)
    fold(store, 5)
    with raw_connection(path) as raw:
        raw.execute("UPDATE feedback SET payload = x'00' WHERE sequence = 3")
    report = verify_store(path)
    assert [(problem.part, problem.sequence) for problem in report.problems] == [("feedback", 3)]


def test_retention_keeps_feedback_within_its_bounds_in_table_and_log(store: Store, location: str) -> None:
    fill(store)
    now_us = time.time_ns() // 1000
    policy = RetentionPolicy(
        events_max=4, hours=0, ids_max=100, id_hours=1, feedback_events_max=1, feedback_days=1
    )
    retention = Retention(store, policy, lambda: 1, now_us=lambda: now_us)
    retention.look()
    assert shoppers(store) == [ANNA, BERT, ANNA]
    assert retention.stats().expired_feedback == 3
    now_us += 2 * 24 * 3_600_000_000
    retention.look()
    assert shoppers(store) == []
    assert verify_store(location).sound
