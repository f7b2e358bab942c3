"""Every kind of damage is found and named, and looking changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.catalogue.errors import SchemaMismatch, StoreUnavailable
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent
from server.catalogue.verify import PROBLEMS_TOLD, verify_store
from tests.server.catalogue.conftest import HOLDER, event
from tests.server.catalogue.folded import EVENTS, FLIP, FOLDED, damage, make, new_event, raw
from tests.server.catalogue.test_schema import VERSION_1


@pytest.fixture
def catalogue(path: Path) -> Path:
    make(path)
    return path


def test_a_sound_catalogue_is_sound_and_counted(catalogue: Path) -> None:
    before = catalogue.read_bytes()
    done = []
    report = verify_store(catalogue, lambda rows, total: done.append((rows, total)))
    assert report.sound
    assert report.problems == []
    assert (report.events, report.head_sequence, report.head_epoch) == (EVENTS - FOLDED, EVENTS, 2)
    assert (report.snapshot_sequence, report.snapshot_products) == (FOLDED, 10)
    assert (report.folded_event_ids, report.unsealed) == (FOLDED, 0)
    assert done[-1] == (EVENTS + 10, EVENTS + 10)
    assert catalogue.read_bytes() == before


def test_an_empty_catalogue_is_sound(path: Path) -> None:
    open_store(path).close()
    report = verify_store(path)
    assert (report.sound, report.events, report.head_sequence) == (True, 0, 0)


def test_it_can_be_looked_through_while_a_replica_has_it_open_and_writes(catalogue: Path) -> None:
    store = open_store(catalogue)
    with raw(catalogue) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM log")
        assert verify_store(catalogue).sound
        writer.execute("ROLLBACK")
    store.close()


@pytest.mark.parametrize(
    ("statement", "part", "text"),
    [
        (f"UPDATE log SET {FLIP} WHERE sequence = 50", "log", "event 50 does not match its checksum"),
        ("DELETE FROM log WHERE sequence = 50", "log", "event 50 is missing"),
        ("DELETE FROM log WHERE sequence < 45", "log", "events 41 to 44 are missing"),
        ("UPDATE log SET checksum = NULL WHERE sequence = 50", "log", "event 50 has lost its checksum"),
        ("UPDATE snapshot SET epoch = 9 WHERE product_id = 'p3'", "snapshot", "'p3' does not match"),
        ("DELETE FROM snapshot WHERE product_id = 'p3'", "snapshot", "holds 9 products, 10 are declared"),
        ("UPDATE snapshot_state SET epoch = 9", "snapshot", "state of the snapshot does not match"),
        (
            "UPDATE folded_event SET sequence = 44 WHERE sequence = 4",
            "event_ids",
            "event 44 counts as folded",
        ),
        ("UPDATE folded_event SET event_id = 'e50' WHERE sequence = 4", "event_ids", "1 events carry"),
        ("UPDATE lease SET epoch = 1", "lease", "it is at epoch 1, the log at 2"),
        ("DELETE FROM lease", "lease", "it is at epoch none"),
    ],
)
def test_damage_is_found_and_named(catalogue: Path, statement: str, part: str, text: str) -> None:
    store = open_store(catalogue)
    assert store.seal(epoch=2, rows_max=100) == EVENTS - FOLDED
    store.close()
    damage(catalogue, statement)
    report = verify_store(catalogue)
    assert not report.sound
    assert [problem.part for problem in report.problems] == [part]
    assert text in report.problems[0].text


def test_an_epoch_that_falls_is_found_under_whole_checksums(catalogue: Path) -> None:
    store = open_store(catalogue)
    # As a store would have been written by a primary that was not fenced.
    damage(catalogue, "UPDATE lease SET epoch = 1")
    store.append([[new_event(60)]], epoch=1)
    store.close()
    damage(catalogue, "UPDATE lease SET epoch = 2")
    [problem] = verify_store(catalogue).problems
    assert (problem.part, problem.sequence) == ("log", 61)
    assert problem.text == "event 61 is of epoch 1, after one of 2"


def test_problems_beyond_the_first_are_counted(catalogue: Path) -> None:
    store = open_store(catalogue)
    store.append([[new_event(number) for number in range(60, 160)]], epoch=2)
    store.close()
    damage(catalogue, f"UPDATE log SET {FLIP}")
    report = verify_store(catalogue)
    assert report.problem_count == 120
    assert len(report.problems) == PROBLEMS_TOLD
    assert report.damaged == list(range(41, 161))


def test_rows_on_a_broken_page_are_named_and_the_others_still_looked_at(path: Path) -> None:
    store = open_store(path)
    store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=10**15)
    store.append([[NewEvent.of(event(str(n), title="x" * 1500)) for n in range(60)]], epoch=1)
    store.close()
    with raw(path) as connection:
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    at = content.index(event("30", title="x" * 1500).SerializeToString())
    page = at // page_bytes * page_bytes
    content[page : page + 8] = b"\x00" * 8
    path.write_bytes(content)
    report = verify_store(path)
    assert not report.sound
    assert "file" in {problem.part for problem in report.problems}
    assert 1 <= len(report.damaged) + sum(last - first + 1 for first, last in report.missing) < 60


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, StoreUnavailable, "there is no catalogue"),
        (b"", SchemaMismatch, "is empty"),
        (b"product_id,title\n" * 100, SchemaMismatch, "not an SQLite database"),
    ],
)
def test_what_is_no_catalogue_is_refused(
    path: Path, content: bytes | None, error: type[Exception], message: str
) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        verify_store(path)
    assert path.exists() is (content is not None)


def test_a_file_of_another_program_or_of_an_older_version_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "bookmarks"
    damage(other, "CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(SchemaMismatch, match="not a Muster catalogue"):
        verify_store(other)
    with raw(path) as connection:
        connection.executescript(VERSION_1)
    with pytest.raises(SchemaMismatch, match="start a replica of this version on it once"):
        verify_store(path)


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_file_that_was_cut_short_is_damaged(catalogue: Path, share: float) -> None:
    whole = catalogue.read_bytes()
    catalogue.write_bytes(whole[: int(len(whole) * share)])
    report = verify_store(catalogue)
    assert not report.sound
