"""The faults of the disk, on a process of a few lines. Skipped, with the reason, where they are forbidden."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.experiment import Inconclusive
from drills.faults import disk
from drills.faults.disk import FullDisk, Tracer, mount_need, small_disk, strace_need

SYNCING = """
import os, sys, threading
def sync(line):
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    try:
        os.fdatasync(descriptor)
        print("synced", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
print("ready", flush=True)
for line in sys.stdin:
    thread = threading.Thread(target=sync, args=(line,))
    thread.start()
    thread.join()
"""


@pytest.fixture
def syncing(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Syncs a file in a new thread for each line that it is given, and says how that went."""
    process = subprocess.Popen(
        [sys.executable, "-c", SYNCING, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.kill()
    process.wait()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None and process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def skip_without(missing: str | None) -> None:
    if missing is not None:
        pytest.skip(missing)


@pytest.mark.privileged
def test_a_failing_sync_fails_until_it_is_undone(syncing: subprocess.Popen[str], tmp_path: Path) -> None:
    skip_without(strace_need().missing())
    assert ask(syncing) == "synced"
    tracer = Tracer(syncing.pid, "error=EIO", tmp_path / "record")
    try:
        assert ask(syncing) == str(errno.EIO)
        assert tracer.tampered() == 1
    finally:
        tracer.detach()
    assert ask(syncing) == "synced"
    tracer.detach()


@pytest.mark.privileged
def test_a_slow_sync_takes_its_time_and_succeeds(syncing: subprocess.Popen[str], tmp_path: Path) -> None:
    skip_without(strace_need().missing())
    tracer = Tracer(syncing.pid, "delay_enter=100000", tmp_path / "record")
    try:
        assert ask(syncing) == "synced"
        assert "(DELAYED)" in tracer.record.read_text()
    finally:
        tracer.detach()


@pytest.mark.privileged
def test_a_process_that_is_gone_cannot_be_traced(tmp_path: Path) -> None:
    skip_without(strace_need().missing())
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(Inconclusive, match="strace may not attach"):
        Tracer(ended.pid, "error=EIO", tmp_path / "record")


def test_without_strace_the_need_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "which", lambda name: None)
    assert strace_need().missing() == "strace is not installed: apt-get install strace"


@pytest.mark.privileged
def test_a_full_disk_takes_nothing_until_there_is_room(tmp_path: Path) -> None:
    skip_without(mount_need(tmp_path).missing())
    data = tmp_path / "data"
    with small_disk(data, 1):
        subject: Any = SimpleNamespace(cluster=SimpleNamespace(data_dir=data, replicas=[]))
        fault = FullDisk()
        assert fault.inject(subject)["bytes"] > 0
        with pytest.raises(OSError, match="No space left") as refused:
            (data / "more").write_bytes(b"x" * 8192)
        assert refused.value.errno == errno.ENOSPC
        fault.rollback(subject)
        (data / "more").write_bytes(b"x" * 8192)
        fault.rollback(subject)
    assert not os.path.ismount(data) and not any(data.iterdir())


def test_where_nothing_can_be_mounted_the_need_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_LIBC", SimpleNamespace(mount=lambda *_: -1))
    missing = mount_need(tmp_path).missing()
    assert missing is not None and "run as root" in missing and "unshare" in missing
