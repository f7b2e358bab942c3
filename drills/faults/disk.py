"""Disks that are slow, fail, or are full.

The first two are done to the replicas' system calls with strace, which must be allowed to attach to running
processes (ptrace). What a delayed call looks like differs in one point from a slow disk: the thread is
stopped by its tracer (state t of proc(5)), not asleep in the kernel (state D).

A full disk is a small tmpfs below the data folder, which needs root, or a user namespace of one's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drills.experiment import Inconclusive, Need
from drills.faults.process import Clustered, bring_back, running
from drills.rig.cluster import ClusterError, Replica

SYNCS = "fdatasync,fsync"
_ATTACH_S = 10.0
_POLL_S = 0.01
_STRACE_MISSING = "strace is not installed: apt-get install strace"


class Tracer:
    """One strace that tampers with the calls of one process and all its threads.

    injection: strace's own words, such as "delay_enter=200000". record: where it notes each call it has
    tampered with, one a line.
    """

    def __init__(self, pid: int, injection: str, record: Path) -> None:
        strace = shutil.which("strace")
        if strace is None:
            raise Inconclusive(_STRACE_MISSING)
        self.record = record
        self._process = subprocess.Popen(
            [
                *(strace, "-f", "-qq", "-ttt", "-o", str(record)),
                *("-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:{injection}", "-p", str(pid)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._wait_attached(pid)

    def _wait_attached(self, pid: int) -> None:
        end_s = time.monotonic() + _ATTACH_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                complaint = self._process.stderr.read().decode(errors="replace").strip()
                self.detach()
                raise Inconclusive(f"strace may not attach to process {pid}: {complaint[-300:]}")
            if all(tracer == self._process.pid for tracer in _tracers(pid)):
                return
            time.sleep(_POLL_S)
        self.detach()
        raise Inconclusive(f"strace did not attach to process {pid} within {_ATTACH_S:g} s")

    def detach(self) -> None:
        """Lets go of the process, which goes on as before. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_ATTACH_S)
            except subprocess.TimeoutExpired:
                # The kernel frees the traced process when its tracer dies.
                self._process.kill()
                self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def tampered(self) -> int:
        """Calls that it has tampered with so far."""
        try:
            told = self.record.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        return told.count("(INJECTED)") + told.count("(DELAYED)")


def _tracers(pid: int) -> list[int]:
    """The tracer of each thread; 0: none. Threads that end meanwhile are left out; [0]: no such process."""
    tracers = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            for line in status.read_text(encoding="utf-8").splitlines():
                if line.startswith("TracerPid:"):
                    tracers.append(int(line.split()[1]))
    return tracers or [0]


def strace_need() -> Need:
    """strace, and the right to attach it to a process of one's own; found out by doing so."""

    def missing() -> str | None:
        if shutil.which("strace") is None:
            return _STRACE_MISSING
        idle = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            Tracer(idle.pid, "delay_enter=1", Path(os.devnull)).detach()
        except Inconclusive as error:
            return (
                f"{error}; run as root, or allow it: sysctl kernel.yama.ptrace_scope=0, and in a container "
                "--cap-add SYS_PTRACE"
            )
        finally:
            idle.kill()
            idle.wait()
        return None

    return Need("strace and ptrace", missing)


@dataclass
class SlowDisk:
    """Every fsync and fdatasync of every replica takes so much longer: they share one disk.

    A replica that dies meanwhile is free of it when it comes back.
    """

    delay_ms: float
    name: str = "slow_disk"
    _tracers: list[Tracer] = field(default_factory=list)

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Attaches to all replicas. Raises: Inconclusive where that is not allowed."""
        folder = subject.cluster.folder
        for replica in running(subject):
            record = folder / f"{replica.name}.syncs-{time.monotonic_ns()}"
            self._tracers.append(Tracer(replica.pid, f"delay_enter={round(self.delay_ms * 1000)}", record))
        return {"delay_ms": self.delay_ms, "instant_s": time.monotonic()}

    def rollback(self, subject: Clustered) -> None:
        """Lets go of all replicas, and starts again what has ended."""
        let_go(self._tracers)
        bring_back(subject.cluster)

    def delayed(self) -> int:
        """Calls that were delayed so far."""
        return sum(tracer.tampered() for tracer in self._tracers)


@dataclass
class FailingSync:
    """Every fsync and fdatasync of the primary fails with EIO; the other replicas' do not."""

    name: str = "fsync_error"
    exit_code: int | None = None
    """What the primary had ended with when the fault was undone; None: it had not ended."""
    _victim: Replica | None = None
    _tracers: list[Tracer] = field(default_factory=list)

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Attaches to whoever is primary now. Raises: Inconclusive where there is none, or ptrace may not."""
        try:
            primary = subject.cluster.primary()
        except ClusterError as error:
            raise Inconclusive(str(error)) from error
        record = subject.cluster.folder / f"{primary.name}.syncs-{time.monotonic_ns()}"
        self._victim = primary
        instant_s = time.monotonic()
        self._tracers.append(Tracer(primary.pid, "error=EIO", record))
        return {
            "replica": primary.name,
            "pid": primary.pid,
            "instant_s": instant_s,
            "attached_after_s": round(time.monotonic() - instant_s, 6),
        }

    def rollback(self, subject: Clustered) -> None:
        """Lets go of the process, and starts again what has ended."""
        if self._victim is not None and self._victim.process is not None:
            self.exit_code = self._victim.process.poll()
        let_go(self._tracers)
        bring_back(subject.cluster)

    @property
    def victim(self) -> str:
        """The name of the replica; empty where none was found."""
        return "" if self._victim is None else self._victim.name

    def failed(self) -> int:
        """Calls that failed so far."""
        return sum(tracer.tampered() for tracer in self._tracers)


def let_go(tracers: Sequence[Tracer]) -> None:
    """Detaches all of them."""
    for tracer in tracers:
        tracer.detach()


_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A tmpfs of so many MiB at `folder`, for as long as the context lasts. Raises: Inconclusive."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=0755".encode()
    if _LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) != 0:
        raise Inconclusive(f"a small tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}; run as root")
    try:
        yield
    finally:
        # Detached, so that a file somebody still holds open keeps nothing from being taken down.
        _LIBC.umount2(os.fsencode(folder), _MNT_DETACH)


def mount_need(scratch: Path) -> Need:
    """The right to mount a tmpfs; found out by doing so below `scratch`."""

    def missing() -> str | None:
        probe = scratch / "mount-probe"
        try:
            with small_disk(probe, 1):
                return None
        except (Inconclusive, OSError) as error:
            return f"{error}, or in a namespace of your own: unshare --user --map-root-user --mount COMMAND"
        finally:
            with contextlib.suppress(OSError):
                probe.rmdir()

    return Need("a small disk", missing)


@dataclass(frozen=True)
class FullDisk:
    """The disk that holds the data folder is filled to its last byte; undone by taking the filling away."""

    name: str = "full_disk"
    filling: str = "filling"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Writes until there is no room. "bytes": how much that took."""
        instant_s = time.monotonic()
        path = subject.cluster.data_dir / self.filling
        written = 0
        with path.open("wb", buffering=0) as file:
            # In ever smaller pieces: the last page counts.
            for piece in (1 << 20, 1 << 16, 4096, 1):
                block = b"\0" * piece
                with contextlib.suppress(OSError):
                    while True:
                        written += file.write(block)
        return {"bytes": written, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Makes the room free again, and starts again what has ended."""
        (subject.cluster.data_dir / self.filling).unlink(missing_ok=True)
        bring_back(subject.cluster)
