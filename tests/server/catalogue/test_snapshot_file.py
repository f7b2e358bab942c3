"""Folding in a file: it shrinks, damage is not carried on, and what older versions wrote is taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.v1.catalogue_pb2 import Event, Patch, Product, SequencedEvent
from server.catalogue.errors import SchemaMismatch, StoreDamaged
from server.catalogue.opening import open_store
from server.catalogue.retention import RetentionPolicy
from server.catalogue.store import NewEvent, Store
from tests.server.catalogue.conftest import OTHER, TTL_NS, event, event_ids, new_events
from tests.server.catalogue.test_retention import retention
from tests.server.catalogue.test_schema import VERSION_1, raw_connection
from tests.server.catalogue.test_snapshot import changes, fold
from tests.server.replica import wait_until


@pytest.fixture
def location(path: Path) -> str:
    return str(path)


def test_a_folded_catalogue_opens_again_and_one_with_a_hole_does_not(store: Store, path: Path) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    fold(store, last=2)
    store.close()
    open_store(path).close()
    with raw_connection(path) as connection:
        connection.execute("DELETE FROM log WHERE sequence = 4")
    with pytest.raises(StoreDamaged, match="ends at event 6 but holds 3 after the snapshot's 2"):
        open_store(path)


def test_code_from_before_snapshots_refuses_a_folded_catalogue(store: Store, path: Path) -> None:
    version = "SELECT value FROM meta WHERE key = 'schema_version'"
    store.append([new_events(*"abc")], epoch=1)
    with raw_connection(path) as connection:
        assert connection.execute(version).fetchone() == ("1",)
        fold(store)
        assert connection.execute(version).fetchone() == ("2",)
        connection.execute("DROP TABLE alembic_version")
    with pytest.raises(SchemaMismatch, match="schema version 2"):
        open_store(path)


def test_room_of_folded_events_goes_back_to_the_disk(store: Store, path: Path) -> None:
    big = [
        NewEvent.of(Event(event_id=str(i), patch=Patch(product_id="x" * 2000, stock=i))) for i in range(500)
    ]
    store.append([big], epoch=1)
    with raw_connection(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = path.stat().st_size
        fold(store)
        steps = 0
        while store.reclaim(bytes_max=65536):
            steps += 1
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert steps > 3
    assert path.stat().st_size < before / 4


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "payload = CAST(substr(payload, 1, 5) || x'ff' || substr(payload, 7) AS BLOB)",
        "payload = 'text'",
        "event_id = 'another'",
        "event_id = CAST(x'ff62' AS TEXT)",
        "epoch = epoch + 1",
        "committed_unix_us = committed_unix_us - 1",
        "checksum = x'0011223344556677'",
    ],
)
def test_a_changed_byte_is_named_by_its_sequence_and_never_read_or_folded(
    store: Store, path: Path, damage: str
) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    with raw_connection(path) as connection:
        connection.execute(f"UPDATE log SET {damage} WHERE sequence = 2")
    with pytest.raises(StoreDamaged, match=r"event 2 of .* does not match its checksum"):
        store.read_range(1)
    assert event_ids(store.read_range(3)) == ["c", "d"]
    with store.view() as view, pytest.raises(StoreDamaged, match="event 2"):
        list(view.log_rows())
    with pytest.raises(StoreDamaged, match="event 2 does not match its checksum; it cannot be folded"):
        fold(store)
    assert fold(store, last=1) == 1


def test_a_damaged_row_of_the_snapshot_is_neither_read_nor_merged(store: Store, path: Path) -> None:
    changes(store, *(Product(product_id=p, title="t") for p in "ab"), Patch(product_id="a", stock=1))
    fold(store, last=2)
    with raw_connection(path) as connection:
        connection.execute("UPDATE snapshot SET changed_sequence = 9 WHERE product_id = 'a'")
    with store.view() as view, pytest.raises(StoreDamaged, match="product 'a'"):
        list(view.snapshot_rows())
    changes(store, Product(product_id="c", title="t"))
    with pytest.raises(StoreDamaged, match="product 'a'"):
        fold(store)


def test_a_snapshot_whose_state_was_changed_is_refused(store: Store, path: Path) -> None:
    store.append([new_events(*"abc")], epoch=1)
    fold(store)
    with raw_connection(path) as connection:
        connection.execute("UPDATE snapshot_state SET products = products + 1")
    with pytest.raises(StoreDamaged, match="state of the snapshot"), store.view():
        pass
    with pytest.raises(StoreDamaged, match="state of the snapshot"):
        open_store(path)


# --- rows of an older version ----------------------------------------------------------------------------


def test_rows_of_an_older_version_are_read_and_get_their_checksums_once(path: Path) -> None:
    with raw_connection(path) as connection:
        connection.executescript(VERSION_1)
        for number in range(2, 6):
            old = event(f"old-{number}").SerializeToString()
            connection.execute("INSERT INTO log VALUES (?, 3, ?, 7, ?)", (number, f"old-{number}", old))
    store = open_store(path)
    store.claim_lease(OTHER, expected_epoch=3, ttl_ns=TTL_NS)
    store.append([new_events("new")], epoch=4)
    assert len(store.read_range(1)) == 6
    assert store.seal(epoch=4, rows_max=4) == 4
    assert store.seal(epoch=4, rows_max=4) == 2
    assert store.seal(epoch=4, rows_max=4) == 0
    with raw_connection(path) as connection:
        assert connection.execute("SELECT count(*) FROM log WHERE checksum IS NULL").fetchone() == (0,)
    assert len(store.read_range(1)) == 6
    store.close()


def test_a_row_of_an_older_version_that_is_not_its_event_is_not_sealed(path: Path) -> None:
    with raw_connection(path) as connection:
        connection.executescript(VERSION_1)
        connection.execute("INSERT INTO log VALUES (2, 3, 'b', 7, ?)", (event("c").SerializeToString(),))
    store = open_store(path)
    store.claim_lease(OTHER, expected_epoch=3, ttl_ns=TTL_NS)
    with pytest.raises(StoreDamaged, match=r"event 2 .*holds another event \('c' instead of 'b'\)"):
        store.read_range(1)
    with pytest.raises(StoreDamaged, match="event 2 holds another event"):
        store.seal(epoch=4, rows_max=10)
    assert SequencedEvent.FromString(store.read_range(1, 1)[0]).event.event_id == "old"
    store.close()


def test_damage_stops_the_folding_with_a_word_and_goes_on_when_it_is_repaired(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    with raw_connection(path) as connection:
        connection.execute("UPDATE log SET epoch = 2 WHERE sequence = 2")
        keeper = retention(store, RetentionPolicy(1, 0, 1000, 1, poll_s=0.01))
        keeper.start()
        wait_until(lambda: "the log is not folded: event 2" in caplog.text, "the damage is told")
        assert keeper.stats().folded_events == 0
        connection.execute("UPDATE log SET epoch = 1 WHERE sequence = 2")
    wait_until(lambda: keeper.stats().folded_events == 3, "the rest is folded")
    assert caplog.text.count("the log is not folded") == 1
    keeper.stop()
