"""The room that is kept for the lease."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from muster.v1.catalogue_pb2 import Event, Patch
from server.catalogue.errors import DiskFull
from server.catalogue.reserve import Reserve
from server.catalogue.sqlite import RESERVE_NAME, SqliteStore
from server.catalogue.store import Commit, NewEvent
from tests.server.catalogue.test_disk import Disk, disk

__all__ = ["disk"]

HOUR_NS = 3600 * 10**9


def test_the_room_is_really_taken_and_given_up_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 1 << 20)
    reserve.keep()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 1 << 20
    reserve.keep()
    assert [path.name for path in tmp_path.iterdir()] == ["reserve"]
    assert reserve.give()
    assert not reserve.give()


def test_a_reserve_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "reserve").write_bytes(b"x" * 100)
    Reserve(tmp_path / "reserve", 1 << 16).keep()
    assert (tmp_path / "reserve").stat().st_size == 1 << 16


def test_without_room_it_is_not_even_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("the lease needs that room"))
    with pytest.raises(DiskFull, match="full but for the lease's reserve"):
        Reserve(tmp_path / "reserve", 1 << 16).keep()
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_disk_beside_its_size_is_left_to_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refused)
    Reserve(tmp_path / "reserve", 1 << 16).keep()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.privileged
def test_on_a_full_disk_the_lease_is_renewed_appends_are_refused_and_all_heals(disk: Disk) -> None:
    store = SqliteStore.open(disk.folder / "catalogue.sqlite3")
    takeover = store.takeover("a", ttl_ns=HOUR_NS)
    assert store.claim_lease(takeover.me, expected_epoch=0, ttl_ns=HOUR_NS) is not None

    def append(number: int) -> Commit:
        event = Event(event_id=f"e{number}", patch=Patch(product_id="p", stock=number))
        return store.append([[NewEvent.of(event)]], epoch=1, extend_ns=HOUR_NS)

    def renew() -> int | None:
        return store.renew_lease(epoch=1, holder=takeover.me.name, ttl_ns=HOUR_NS)

    for number in range(1, 51):
        append(number)
    filler = disk.fill()
    following = itertools.count(51)
    with pytest.raises(DiskFull):
        while True:
            append(next(following))
    # More than the reserve alone would hold: the write-ahead log is used again from its start.
    for _ in range(1500):
        assert renew() is not None
    assert not (disk.folder / RESERVE_NAME).exists()
    head = store.head().sequence
    with pytest.raises(DiskFull, match="full but for the lease's reserve"):
        append(next(following))
    filler.unlink()
    assert append(next(following)).batches[0].sequence == head + 1
    assert (disk.folder / RESERVE_NAME).exists()
    store.close()
