from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from muster.v1.catalogue_pb2 import Event, SequencedEvent
from server.catalogue.errors import Fenced, SchemaMismatch, StoreDamaged, StoreUnavailable
from server.catalogue.opening import open_store
from server.catalogue.store import Appended, Head, NewEvent, Store, StoreConfig
from tests.server.catalogue.conftest import (
    HOLDER,
    OTHER,
    TTL_NS,
    Passing,
    event,
    event_ids,
    new_events,
    sequences,
)
from tests.server.catalogue.folded import FLIP, damage

LONG_NS = 10**11
ROOT = Path(__file__).parents[3]


# --- opening ---------------------------------------------------------------------------------------------


def test_replicas_that_start_together_create_one_catalogue(location: str) -> None:
    program = f"from server.catalogue.opening import open_store; print(open_store({location!r}).cluster_id)"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    identities = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(identities) == 1
    assert len(identities.pop()) == 16


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mysql://muster@db/muster", "cannot be on 'mysql'"),
        ("sqlite:///catalogue.sqlite3", "or nothing for an SQLite file"),
        ("postgresql+psycopg://muster@db", "must name a database"),
    ],
)
def test_a_store_of_another_kind_is_refused_by_its_name(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable, match=message):
        open_store(address)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_catalogue_is_refused_and_left_alone(store: Store, location: str) -> None:
    store.append([new_events("a")], epoch=1)
    mine = StoreConfig(cluster_id=store.cluster_id)
    open_store(location, mine).close()
    with pytest.raises(SchemaMismatch, match=f"holds catalogue {store.cluster_id}, .* asks for 0ther"):
        open_store(location, StoreConfig(cluster_id="0ther"))
    assert store.head() == Head(1, 1)


def test_a_file_that_is_not_there_is_not_made_for_a_catalogue_that_must_be(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatch, match="there is no catalogue at"):
        open_store(tmp_path / "new" / "catalogue.sqlite3", StoreConfig(cluster_id="0ther"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("missing", "first"), [((1,), 1), ((2,), 2), ((2, 3), 2), ((2, 4), 2)])
def test_a_log_with_a_hole_is_refused_by_the_first_event_that_is_missing(
    store: Store, location: str, missing: tuple[int, ...], first: int
) -> None:
    store.append([new_events(*"abcde")], epoch=1)
    damage(location, f"DELETE FROM log WHERE sequence IN ({', '.join(map(str, missing))})")
    with pytest.raises(StoreDamaged, match=f"holds {5 - len(missing)}: event {first} is missing"):
        open_store(location)
    with pytest.raises(StoreDamaged, match=f"event {first} is missing"):
        store.read_range(1)


def test_a_hole_behind_the_snapshot_is_named_too(store: Store, location: str) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    store.fold(epoch=1, wanted=lambda row: row.sequence <= 3, events_max=10)
    damage(location, "DELETE FROM log WHERE sequence = 5")
    with pytest.raises(StoreDamaged, match="holds 2 after the snapshot's 3: event 5 is missing"):
        open_store(location)


def test_a_flipped_byte_is_named_by_its_event_and_the_others_are_read(store: Store, location: str) -> None:
    store.append([new_events(*"abc")], epoch=1)
    damage(location, f"UPDATE log SET {FLIP} WHERE sequence = 2")
    open_store(location).close()
    with pytest.raises(StoreDamaged, match=r"event 2 of .* does not match its checksum"):
        store.read_range(1)
    assert event_ids(store.read_range(3)) == ["c"]


def test_the_extent_follows_the_log(store: Store) -> None:
    empty = store.extent()
    assert (empty.first_sequence, empty.first_committed_unix_us, empty.last_committed_unix_us) == (0, 0, 0)
    before_us = time.time_ns() // 1000
    store.append([[NewEvent.of(event(str(i), title="x" * 1000)) for i in range(100)]], epoch=1)
    store.append([new_events("last")], epoch=1)
    store.fold(epoch=1, wanted=lambda row: row.sequence <= 10, events_max=100)
    extent = store.extent()
    assert extent.first_sequence == 11
    assert before_us <= extent.first_committed_unix_us <= extent.last_committed_unix_us
    assert extent.size_bytes > empty.size_bytes + 50_000


# --- appending -------------------------------------------------------------------------------------------


def test_sequences_start_at_one_and_have_no_gaps(store: Store) -> None:
    assert store.head() == Head(0, 0)
    commit = store.append([new_events("a", "b"), new_events("c")], epoch=1)
    assert commit.batches == [Appended(2, 1, 0), Appended(3, 1, 0)]
    assert store.head() == Head(3, 1)
    assert sequences(store.read_range(1)) == [1, 2, 3]
    assert event_ids(store.read_range(1)) == ["a", "b", "c"]


def test_a_known_event_is_not_written_again_and_keeps_its_sequence(store: Store) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    again = [NewEvent.of(event("b", title="another")), *new_events("d", "d")]
    assert store.append([again, new_events("a")], epoch=1).batches == [Appended(4, 1, 2), Appended(1, 1, 1)]
    assert event_ids(store.read_range(1)) == ["a", "b", "c", "d"]
    assert SequencedEvent.FromString(store.read_range(2)[0]).event.upsert.title == "a title"


def test_the_store_tells_which_events_it_holds_and_where(store: Store) -> None:
    store.append([new_events("a", "b")], epoch=1)
    assert store.sequences(["b", "x", "a"]) == {"a": 1, "b": 2}
    assert store.sequences([]) == {}


def test_more_events_than_one_query_can_name_are_checked_for_duplicates(store: Store) -> None:
    names = [f"e{i}" for i in range(1200)]
    store.append([new_events(*names)], epoch=1)
    assert store.append([new_events(*names, "new")], epoch=1).batches == [Appended(1201, 1, 1200)]


def test_a_write_of_an_ended_reign_is_fenced_and_leaves_nothing(store: Store) -> None:
    store.append([new_events("a")], epoch=1)
    assert store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS) is not None
    for batch in (new_events("late"), new_events("a"), new_events("a", "late")):
        with pytest.raises(Fenced) as caught:
            store.append([new_events("before"), batch], epoch=1)
        assert (caught.value.epoch, caught.value.current_epoch) == (1, 2)
    assert event_ids(store.read_range(1)) == ["a"]
    assert store.append([new_events("b")], epoch=2).batches == [Appended(2, 2, 0)]


def test_duplicates_alone_are_confirmed_only_by_the_primary(store: Store) -> None:
    store.append([new_events("a")], epoch=1)
    assert store.append([new_events("a")], epoch=1).batches == [Appended(1, 1, 1)]
    with pytest.raises(Fenced):
        store.append([new_events("a")], epoch=2)


def test_nobody_writes_before_the_first_claim(location: str) -> None:
    store = open_store(location)
    with pytest.raises(Fenced, match="nobody holds it"):
        store.append([new_events("a")], epoch=0)
    store.close()


def test_an_event_without_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="event_id"):
        NewEvent.of(Event())


def test_a_range_is_cut_at_both_ends_and_at_the_limit(store: Store) -> None:
    store.append([new_events(*"abcdefgh")], epoch=1)
    assert event_ids(store.read_range(3, 5)) == ["c", "d", "e"]
    assert event_ids(store.read_range(0, events_max=2)) == ["a", "b"]
    assert event_ids(store.read_range(7)) == ["g", "h"]
    assert store.read_range(9) == []


def test_another_process_commit_changes_the_data_version_and_its_own_silence_does_not(
    store: Store, location: str
) -> None:
    follower = open_store(location)
    version = follower.watch_version()
    first = version.read()
    assert version.read() == first
    store.append([new_events("a")], epoch=1)
    gives_up_at_s = time.monotonic() + 30
    while version.read() == first:
        assert time.monotonic() < gives_up_at_s
    version.close()
    follower.close()


# --- the lease -------------------------------------------------------------------------------------------


def test_only_one_of_two_claims_of_an_epoch_succeeds(store: Store) -> None:
    claimed = store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS)
    assert claimed is not None
    assert claimed.epoch == 2
    assert store.claim_lease(HOLDER, expected_epoch=1, ttl_ns=TTL_NS) is None
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is None
    lease = store.lease()
    assert lease is not None
    assert (lease.epoch, lease.holder) == (claimed.epoch, claimed.holder)
    assert claimed.expires_monotonic_ns <= lease.expires_monotonic_ns


def is_moved_to(expires_ns: int | None, asked_at_ns: int, store: Store) -> bool:
    """The holder counts from no later than the renewal, everybody else from no sooner."""
    lease = store.lease()
    assert lease is not None
    assert expires_ns is not None
    return asked_at_ns + LONG_NS <= expires_ns <= lease.expires_monotonic_ns < expires_ns + LONG_NS


def test_a_renewal_moves_the_expiry(store: Store, passing: Passing) -> None:
    assert store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=LONG_NS) is not None
    passing.pass_ns(LONG_NS // 2)
    asked_at_ns = passing.now_ns()
    expires_ns = store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=LONG_NS)
    assert is_moved_to(expires_ns, asked_at_ns, store)


def test_an_expired_lease_cannot_be_renewed_by_anything(store: Store, passing: Passing) -> None:
    passing.pass_ns(TTL_NS)
    before = store.lease()
    assert store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=TTL_NS) is None
    assert store.append([new_events("a")], epoch=1, extend_ns=TTL_NS).lease_expires_ns is None
    assert store.lease() == before


@pytest.mark.parametrize(("epoch", "holder"), [(2, HOLDER.name), (1, OTHER.name), (0, HOLDER.name)])
def test_only_the_holder_of_the_epoch_renews_or_gives_back(store: Store, epoch: int, holder: str) -> None:
    assert store.renew_lease(epoch=epoch, holder=holder, ttl_ns=TTL_NS) is None
    assert not store.release_lease(epoch=epoch, holder=holder)


def test_a_lease_given_back_has_expired_and_keeps_its_epoch(store: Store) -> None:
    assert store.release_lease(epoch=1, holder=HOLDER.name)
    lease = store.lease()
    assert lease is not None
    assert (lease.epoch, lease.expires_monotonic_ns) == (1, 0)
    assert store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=TTL_NS) is None


def test_an_append_extends_the_lease_in_its_own_transaction(store: Store, passing: Passing) -> None:
    assert store.claim_lease(HOLDER, expected_epoch=1, ttl_ns=LONG_NS) is not None
    passing.pass_ns(1000)
    asked_at_ns = passing.now_ns()
    commit = store.append([new_events("a")], epoch=2, extend_ns=LONG_NS)
    assert is_moved_to(commit.lease_expires_ns, asked_at_ns, store)


# --- where it is -------------------------------------------------------------------------------------------


def test_a_server_without_its_driver_says_what_to_install() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
from server.catalogue.opening import open_store
open_store("postgresql+psycopg://muster@127.0.0.1/muster")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "StoreUnavailable" in ended.stderr
    assert "pip install 'muster[postgresql]'" in ended.stderr
