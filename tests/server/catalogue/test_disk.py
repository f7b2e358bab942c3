"""Disks that are full, read-only, or become so: what is said, what goes on, what heals."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from muster.v1 import catalogue_pb2 as pb
from muster.v1 import ranking_pb2
from server.catalogue.command_line import FILE_NAME
from server.catalogue.errors import StoreUnavailable
from server.catalogue.sqlite import SqliteStore
from server.catalogue.verify import verify_store
from tests.server.replica import Replica, command, run_refused, shoes, upsert, wait_until
from tests.server.services.test_ranking import refusal

SETTINGS = {"generation.rebuild": "false", "lease.ttl_ms": 5000}
SIZE_BYTES = 16 * 2**20

pytestmark = pytest.mark.privileged


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mount("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder))

    def _mount(self, *line: str) -> None:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    def fill(self) -> Path:
        """Leave no room; the file to remove for it to come back."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        return filler

    def make_read_only(self) -> None:
        self._mount("mount", "-o", "remount,ro", str(self.folder))

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    yield disk
    disk.remove()


def reads(replica: Replica) -> bool:
    """Whether products are read and searched."""
    get = replica.catalogue.Get(pb.GetRequest(product_id="red-1"), timeout=10)
    search = replica.ranking.Search(ranking_pb2.SearchRequest(query="red shoe"), timeout=10)
    return get.product.product_id == "red-1" and len(search.results) > 0


def test_a_full_disk_refuses_writes_keeps_reads_and_heals_by_itself(disk: Disk, bundle: Path) -> None:
    data_dir = disk.folder / "data"
    with Replica(bundle, data_dir, "a", SETTINGS) as replica:
        replica.wait_primary()
        replica.apply(*shoes(20))
        filler = disk.fill()
        refused = None
        acknowledged = 20
        # What the log has reserved already is used up first.
        for number in range(2000):
            try:
                replica.apply(upsert(f"big-{number}", "x" * 2000, description="y" * 30_000))
                acknowledged += 1
            except grpc.RpcError as error:
                refused = error
                break
        assert refused is not None
        assert refusal(refused)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
        assert reads(replica)
        head = replica.status().head_sequence
        assert head == acknowledged
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                replica.apply(upsert("big-again", "x" * 2000, description="y" * 30_000))
            assert refusal(caught.value)[1] in ("DISK_FULL", "NOT_PRIMARY")
        assert replica.status().head_sequence == head
        filler.unlink()
        wait_until(lambda: _applies(replica), "writes are taken again")
        assert replica.process.poll() is None
        assert reads(replica)
        assert replica.drain() == 0
    assert verify_store(data_dir / FILE_NAME).sound


def _applies(replica: Replica) -> bool:
    try:
        return bool(replica.apply(upsert("healed", "room again")).sequence)
    except grpc.RpcError:
        return False


def test_a_read_only_disk_is_refused_at_the_start_with_one_sentence(disk: Disk, bundle: Path) -> None:
    data_dir = disk.folder / "data"
    with Replica(bundle, data_dir, "a", SETTINGS) as replica:
        replica.wait_primary()
        replica.apply(*shoes(3))
        assert replica.drain() == 0
    disk.make_read_only()
    code, error = run_refused(command(bundle, data_dir, SETTINGS))
    assert code == 2
    assert str(data_dir) in error
    assert "Read-only file system" in error or "is not writable" in error
    assert "Traceback" not in error
    assert verify_store(data_dir / FILE_NAME).sound


def test_a_read_only_file_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    SqliteStore.open(path).close()
    path.chmod(0o444)
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o111)
    if os.geteuid() != 0:
        with pytest.raises(StoreUnavailable, match="not readable and writable for this user"):
            SqliteStore.open(path)
        return
    # Root may write anything; so ask as nobody, in a process of its own.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).setuid(65534)
            SqliteStore.open(path)
            os.write(writer, b"opened")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    answer = os.read(reader, 4096).decode()
    os.close(reader)
    assert answer == f"StoreUnavailable: {path} is not readable and writable for this user"


def test_a_disk_that_turns_read_only_ends_the_primary_and_keeps_the_standby_reading(
    bundle: Path, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace makes the writes fail, and is not installed (apt-get install strace)")
    data_dir = tmp_path / "data"
    with (
        Replica(bundle, data_dir, "a", SETTINGS) as primary,
        Replica(bundle, data_dir, "b", {**SETTINGS, "lease.eligible": "false"}) as standby,
    ):
        primary.wait_primary()
        last = primary.apply(*shoes(20)).sequence
        standby.wait_serving()
        tracer = subprocess.Popen(
            [
                *("strace", "-f", "-qq", "-o", os.devnull, "-p", str(primary.process.pid)),
                *("-e", "trace=pwrite64,ftruncate", "-e", "inject=pwrite64,ftruncate:error=EROFS"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(1.0)
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                pytest.skip(f"strace cannot attach here: {tracer.stderr.read().strip()}")
            with pytest.raises(grpc.RpcError):
                primary.apply(upsert("lost", "never acknowledged"))
            assert primary.process.wait(timeout=60) == 74
        finally:
            tracer.terminate()
            tracer.wait()
            assert tracer.stderr is not None
            tracer.stderr.close()
        assert "nothing unacknowledged was reported as written" in primary.log()
        assert reads(standby)
        assert standby.status().applied_sequence == last
    assert verify_store(data_dir / FILE_NAME).head_sequence == last
