from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite

from server.catalogue.errors import (
    DiskFull,
    SchemaMismatch,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from server.catalogue.opening import open_store
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import Appended, Head, NewEvent, Store, StoreConfig
from tests.server.catalogue.conftest import (
    HOLDER,
    OTHER,
    TTL_NS,
    event,
    event_ids,
    new_events,
    raw_connection,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def location(path: Path) -> str:
    return str(path)


@pytest.mark.parametrize("version", [(3, 51, 2), (3, 40, 1), (2, 99, 99)])
def test_an_sqlite_that_can_corrupt_a_shared_log_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sqlite, "sqlite_version_info", version)
    with pytest.raises(StoreUnavailable, match=r"Muster needs 3\.51\.3 or newer"):
        open_store(path)
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
    first = open_store(path)
    second = open_store(path)
    assert first.cluster_id == second.cluster_id != ""
    first.close()
    second.close()


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match=r"file/below cannot be created"):
        open_store(tmp_path / "file" / "below" / "catalogue.sqlite3")


def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)

    def open_as_nobody(answer: multiprocessing.connection.Connection) -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            open_store(folder / "catalogue.sqlite3")
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
        open_store(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with raw_connection(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="not a Muster catalogue"):
        open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_catalogue_that_was_copied_half_is_refused(store: Store, path: Path, share: float) -> None:
    store.append([[NewEvent.of(event(str(i), title="x" * 1000)) for i in range(300)]], epoch=1)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StoreDamaged, match=r"cut short|damaged"):
        open_store(path)


def test_a_catalogue_without_its_lease_is_refused(store: Store, path: Path) -> None:
    with raw_connection(path) as connection:
        connection.execute("DROP TABLE lease")
    with pytest.raises(StoreDamaged, match="lost its tables lease"):
        open_store(path)


def test_a_killed_writer_leaves_whole_batches_only(path: Path) -> None:
    program = f"""
import sys, time
from server.catalogue.opening import open_store
from tests.server.catalogue.conftest import HOLDER, new_events
store = open_store({str(path)!r})
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
    store = open_store(path)
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
        open_store(path).close()
        with pytest.raises(StoreUnavailable, match="locked"):
            store.append([new_events("b")], epoch=1)
        lease = store.lease()
        assert lease is not None
        assert lease.holder == HOLDER
        assert event_ids(store.read_range(1)) == ["a"]
        frozen.execute("ROLLBACK")
    assert store.append([new_events("b")], epoch=1).batches == [Appended(2, 1, 0)]


def test_a_renewal_does_not_wait_for_a_lock_for_longer_than_it_is_of_use(path: Path) -> None:
    hour_ms = 3_600_000
    store = open_store(path, StoreConfig(busy_timeout_ms=hour_ms))
    assert isinstance(store, SqliteStore)
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=hour_ms * 10**6) is not None
    other = sqlite.connect(str(path), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=hour_ms * 10**6, limit_ns=10**7)
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        store.claim_lease(OTHER, expected_epoch=1, ttl_ns=10**7)
    other.execute("ROLLBACK")
    other.close()
    # Others wait as long as ever.
    with store._writes.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == hour_ms
    assert store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=TTL_NS) is not None
    store.close()
