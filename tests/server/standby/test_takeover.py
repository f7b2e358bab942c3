from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.catalogue.errors import StoreUnavailable
from server.standby import takeover
from server.standby.lease import Holder
from server.standby.takeover import FileLock, HungProcesses, PrimaryLock, process_start_ticks, this_process

ROOT = Path(__file__).parents[3]

HOLD_LOCK = """
import sys
from pathlib import Path
from server.standby.takeover import PrimaryLock
lock = PrimaryLock(Path(sys.argv[1]))
taken = lock.take()
lock.settle()
print(taken, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "primary.lock"


@pytest.fixture
def sleeper(lock_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the lock and does nothing."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(lock_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    yield process
    process.kill()
    process.communicate()


def holder_of(process: subprocess.Popen[bytes]) -> Holder:
    start_ticks = process_start_ticks(process.pid)
    assert start_ticks is not None
    return Holder("x/1", process.pid, start_ticks, "boot")


def dead_is_not_asked_about() -> bool:
    pytest.fail("asked about a dead process")


def test_a_process_is_named_by_pid_and_start_time() -> None:
    first, second = this_process("a"), this_process("a")
    assert first.pid == os.getpid()
    assert first.pid_start_ticks == process_start_ticks(os.getpid())
    assert first.replica == "a"
    assert first.name != second.name
    assert len(first.boot_id) == 36


def test_a_process_that_is_gone_has_no_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert process_start_ticks(sleeper.pid) is None


def test_the_lock_is_exclusive_and_can_be_taken_again(lock_path: Path) -> None:
    first, second = PrimaryLock(lock_path), PrimaryLock(lock_path)
    assert first.take()
    assert first.take()
    assert not second.take()
    first.drop()
    assert second.take()
    assert (first.intact(), second.intact()) == (False, True)
    second.drop()


def test_a_killed_process_frees_the_lock_even_if_its_children_live(lock_path: Path) -> None:
    program = textwrap.dedent(HOLD_LOCK).replace(
        "print(",
        "import subprocess; child = subprocess.Popen(['sleep', '600'], close_fds=False); print(child.pid, ",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(lock_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child, taken = process.stdout.readline().split()
    lock = PrimaryLock(lock_path)
    try:
        assert taken == "True"
        assert not lock.take()
        assert lock.reign.holder_pids() == [process.pid]
        process.kill()
        process.wait()
        assert lock.take()
    finally:
        os.kill(int(child), 9)
        lock.drop()
        process.communicate()


def test_a_lock_file_that_was_replaced_is_not_intact(lock_path: Path) -> None:
    old, new = FileLock(lock_path), FileLock(lock_path)
    assert old.take()
    lock_path.unlink()
    assert not old.intact()
    assert new.take()
    assert new.intact()
    assert not old.intact()
    assert not old.take()
    new.drop()
    old.drop()


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"missing/primary\.lock cannot be opened"):
        PrimaryLock(tmp_path / "missing" / "primary.lock")


def test_a_hung_holder_is_killed(lock_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    assert HungProcesses(PrimaryLock(lock_path)).kill_holder(holder_of(sleeper), lambda: True)
    assert sleeper.wait() == -9


def test_a_later_process_with_the_same_pid_is_left_alone(
    lock_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    holder = holder_of(sleeper)
    stranger = replace(holder, pid_start_ticks=holder.pid_start_ticks - 1)
    assert HungProcesses(PrimaryLock(lock_path)).kill_holder(stranger, lambda: True)
    assert sleeper.poll() is None


def test_a_holder_that_waits_for_the_disk_is_left_alone(
    lock_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "waits_for_disk", lambda pid: pid == sleeper.pid)
    assert not HungProcesses(PrimaryLock(lock_path)).kill_holder(holder_of(sleeper), lambda: True)
    assert sleeper.poll() is None


def test_nobody_is_killed_for_an_old_lease_while_somebody_claims(
    lock_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    claimer = FileLock(lock_path.with_name("primary.lock.claim"))
    assert claimer.take()
    hung = HungProcesses(PrimaryLock(lock_path))
    assert not hung.kill_holder(holder_of(sleeper), lambda: True)
    assert sleeper.poll() is None
    claimer.drop()
    assert hung.kill_holder(holder_of(sleeper), lambda: True)


def test_only_a_claimer_holds_both_locks(lock_path: Path) -> None:
    lock, other = PrimaryLock(lock_path), PrimaryLock(lock_path)
    assert lock.take()
    assert not other.claim.take()
    lock.settle()
    assert other.claim.take()
    other.claim.drop()
    assert not other.take()
    # The vain try left nothing behind.
    assert lock.claim.take()
    lock.drop()
    assert other.take()
    other.drop()


def test_only_an_uninterruptible_sleep_is_a_wait_for_the_disk(sleeper: subprocess.Popen[bytes]) -> None:
    assert not takeover.waits_for_disk(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    assert not takeover.waits_for_disk(sleeper.pid)
    # A parent waits uninterruptibly from vfork until its child has become another program.
    program = "import ctypes, time; c = ctypes.CDLL(None); c.vfork() or (time.sleep(600), c._exit(0))"
    waiting = subprocess.Popen([sys.executable, "-c", program])
    try:
        until_s = time.monotonic() + 30
        while not takeover.waits_for_disk(waiting.pid):
            assert time.monotonic() < until_s
            time.sleep(0.01)
    finally:
        for child in Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        waiting.kill()
        waiting.wait()


def test_a_holder_that_renewed_after_all_is_left_alone(
    lock_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    assert not HungProcesses(PrimaryLock(lock_path)).kill_holder(holder_of(sleeper), lambda: False)
    assert sleeper.poll() is None


def test_a_holder_that_has_ended_counts_as_gone_even_before_its_parent_noticed(
    lock_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    holder = holder_of(sleeper)
    hung = HungProcesses(PrimaryLock(lock_path))
    assert hung.kill_holder(holder, lambda: True)
    # A zombie until `wait`: it has a pid and a start time, but no lock and no future.
    assert hung.kill_holder(holder, dead_is_not_asked_about)
    sleeper.wait()
    assert hung.kill_holder(holder, dead_is_not_asked_about)


def test_a_process_never_kills_itself(lock_path: Path) -> None:
    lock = PrimaryLock(lock_path)
    assert lock.take()
    assert not HungProcesses(lock).kill_holder(this_process("a"), lambda: True)
    assert not HungProcesses(lock).kill_lock_holders(lambda: True)
    lock.drop()


def test_a_holder_that_gave_up_the_lock_has_stepped_down_and_is_left_alone(
    lock_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        hung = HungProcesses(PrimaryLock(lock_path))
        assert hung.kill_holder(holder_of(bystander), lambda: True)
        assert bystander.poll() is None
        assert sleeper.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_whoever_sits_on_the_lock_can_be_killed(lock_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lock = PrimaryLock(lock_path)
    assert not HungProcesses(lock).kill_lock_holders(lambda: False)
    assert sleeper.poll() is None
    assert HungProcesses(lock).kill_lock_holders(lambda: True)
    assert sleeper.wait() == -9
    assert lock.take()
    lock.drop()
