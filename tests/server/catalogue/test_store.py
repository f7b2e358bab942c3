from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysqlite3 import dbapi2 as sqlite

from muster.v1.catalogue_pb2 import Event, SequencedEvent
from server.catalogue import store as store_module
from server.catalogue.errors import (
    DiskFull,
    Fenced,
    SchemaMismatch,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from server.catalogue.store import Appended, Head, NewEvent, Store, StoreConfig
from tests.server.catalogue.conftest import (
    HOLDER,
    OTHER,
    TTL_NS,
    SetClock,
    event,
    event_ids,
    new_events,
    sequences,
)

ROOT = Path(__file__).parents[3]


@contextmanager
def raw_connection(path: Path) -> Iterator[sqlite.Connection]:
    connection = sqlite.connect(str(path), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


# --- opening ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 51, 2), (3, 40, 1), (2, 99, 99)])
def test_an_sqlite_that_can_corrupt_a_shared_log_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sqlite, "sqlite_version_info", version)
    with pytest.raises(StoreUnavailable, match=r"Muster needs 3\.51\.3 or newer"):
        Store.open(path)
    assert not path.exists()


def test_the_measured_settings_are_in_force(store: Store) -> None:
    for engine in (store._writes, store._reads):
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 200
    assert StoreConfig().busy_timeout_ms == 2000


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"), store._reading() as transaction:
        transaction.exec_driver_sql("DELETE FROM log")


def test_missing_folders_are_created_and_a_second_opening_finds_the_same_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "catalogue.sqlite3"
    first = Store.open(path)
    second = Store.open(path)
    assert first.cluster_id == second.cluster_id != ""
    first.close()
    second.close()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match=r"file/below cannot be created"):
        Store.open(tmp_path / "file" / "below" / "catalogue.sqlite3")


def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)

    def open_as_nobody(answer: multiprocessing.connection.Connection) -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            Store.open(folder / "catalogue.sqlite3")
        except Exception as error:
            answer.send(f"{type(error).__name__}: {error}")

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=open_as_nobody, args=(theirs,))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    assert answer.startswith("StoreUnavailable: the folder")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"product_id,title\n1,lamp\n" * 100, SchemaMismatch, "not an SQLite database"),
        (b"SQL", SchemaMismatch, "not an SQLite database"),
        (b"SQLite format 3\x00" + b"\x10\x00\x02\x02", StoreDamaged, "cut short after 20 bytes"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    path: Path, content: bytes, error: type[StoreError], message: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with raw_connection(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="not a Muster catalogue"):
        Store.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_catalogue_that_was_copied_half_is_refused(store: Store, path: Path, share: float) -> None:
    store.append([[NewEvent.of(event(str(i), title="x" * 1000)) for i in range(300)]], epoch=1)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StoreDamaged, match=r"cut short|damaged"):
        Store.open(path)


def test_a_newer_schema_is_refused(store: Store, path: Path) -> None:
    with raw_connection(path) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(SchemaMismatch, match="schema version 2, this Muster reads 1"):
        Store.open(path)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_log_with_a_hole_is_refused(store: Store, path: Path, missing: int) -> None:
    store.append([new_events("1", "2", "3")], epoch=1)
    with raw_connection(path) as connection:
        connection.execute("DELETE FROM log WHERE sequence = ?", (missing,))
    with pytest.raises(StoreDamaged, match="ends at event 3 but holds 2"):
        Store.open(path)
    with pytest.raises(StoreDamaged, match=f"event {missing} is missing"):
        store.read_range(1)


def test_a_catalogue_without_its_lease_is_refused(store: Store, path: Path) -> None:
    with raw_connection(path) as connection:
        connection.execute("DROP TABLE lease")
    with pytest.raises(StoreDamaged, match="lost its tables lease"):
        Store.open(path)


def test_replicas_that_start_together_create_one_catalogue(path: Path) -> None:
    program = f"from server.catalogue.store import Store; print(Store.open({str(path)!r}).cluster_id)"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    identities = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(identities) == 1
    assert len(identities.pop()) == 16


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


def test_nobody_writes_before_the_first_claim(path: Path) -> None:
    store = Store.open(path)
    with pytest.raises(Fenced, match="nobody holds it"):
        store.append([new_events("a")], epoch=0)
    store.close()


def test_a_killed_writer_leaves_whole_batches_only(path: Path) -> None:
    program = f"""
import sys, time
from server.catalogue.store import Store
from tests.server.catalogue.conftest import HOLDER, new_events
store = Store.open({str(path)!r})
store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=10**9)
for i in range(10**6):
    store.append([new_events(*(f"{{i}}-{{j}}" for j in range(50)))], epoch=1)
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    acknowledged = 5 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    store = Store.open(path)
    head = store.head().sequence
    assert head % 50 == 0
    assert head >= 50 * acknowledged
    store.close()


def test_a_full_disk_writes_nothing_and_heals_by_itself(store: Store) -> None:
    with store._writes.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        connection.rollback()
    big = [NewEvent.of(event(str(i), title="x" * 2000)) for i in range(50)]
    with pytest.raises(DiskFull):
        store.append([big], epoch=1)
    assert store.head() == Head(0, 0)
    with store._writes.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        connection.rollback()
    assert store.append([big], epoch=1).batches == [Appended(50, 1, 0)]


def test_a_locked_store_is_unavailable_for_writes_but_still_read(store: Store, path: Path) -> None:
    store.append([new_events("a")], epoch=1)
    with raw_connection(path) as frozen:
        frozen.execute("BEGIN IMMEDIATE")
        frozen.execute("DELETE FROM log")
        Store.open(path).close()
        with pytest.raises(StoreUnavailable, match="locked"):
            store.append([new_events("b")], epoch=1)
        lease = store.lease()
        assert lease is not None
        assert lease.holder == HOLDER
        assert event_ids(store.read_range(1)) == ["a"]
        frozen.execute("ROLLBACK")
    assert store.append([new_events("b")], epoch=1).batches == [Appended(2, 1, 0)]


@given(payload_bytes=st.integers(0, 70_000), sequence=st.integers(1, 2**60), epoch=st.integers(1, 2**60))
def test_stored_events_are_framed_as_protobuf_would(payload_bytes: int, sequence: int, epoch: int) -> None:
    inner = event("e", title="x" * payload_bytes)
    framed = store_module._sequenced(sequence, epoch, 7, inner.SerializeToString())
    assert SequencedEvent.FromString(framed) == SequencedEvent(
        sequence=sequence, epoch=epoch, committed_unix_us=7, event=inner
    )


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
    store: Store, path: Path
) -> None:
    follower = Store.open(path)
    version = follower.watch_version()
    first = version.read()
    assert version.read() == first
    store.append([new_events("a")], epoch=1)
    assert version.read() != first
    version.close()
    follower.close()


# --- the lease -------------------------------------------------------------------------------------------


def test_only_one_of_two_claims_of_an_epoch_succeeds(store: Store) -> None:
    claimed = store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS)
    assert claimed is not None
    assert claimed.epoch == 2
    assert store.claim_lease(HOLDER, expected_epoch=1, ttl_ns=TTL_NS) is None
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is None
    assert store.lease() == claimed


def test_a_renewal_moves_the_expiry(store: Store, clock_ns: SetClock) -> None:
    clock_ns.now_ns += TTL_NS // 2
    expires_ns = store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=TTL_NS)
    assert expires_ns == clock_ns.now_ns + TTL_NS
    lease = store.lease()
    assert lease is not None
    assert lease.expires_monotonic_ns == expires_ns


def test_an_expired_lease_cannot_be_renewed_by_anything(store: Store, clock_ns: SetClock) -> None:
    clock_ns.now_ns += TTL_NS
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


def test_an_append_extends_the_lease_in_its_own_transaction(store: Store, clock_ns: SetClock) -> None:
    clock_ns.now_ns += 1000
    commit = store.append([new_events("a")], epoch=1, extend_ns=TTL_NS)
    lease = store.lease()
    assert lease is not None
    assert commit.lease_expires_ns == lease.expires_monotonic_ns == clock_ns.now_ns + TTL_NS
