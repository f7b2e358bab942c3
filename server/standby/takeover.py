"""How the right to write leaves a process: the kernel lock, and the end of a process that hangs.

A frozen primary may hold SQLite's write lock, which would stop its successor; killing it frees that lock and
the kernel lock together. Whom to kill is checked twice: the process is pinned by a pidfd, its start time must
be the one in the lease, and the lease must still be the expired one right before the signal.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.catalogue.errors import StoreUnavailable
from server.standby.lease import Executioner, Holder, KernelLock

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Long enough for the kernel to take a process with gigabytes of memory apart.
_DEATH_TIMEOUT_MS = 1000


@dataclass(frozen=True)
class Takeover:
    """How the right to write leaves a replica, on one machine or among several.

    me: this replica as a holder. lock: freed by somebody else the moment its holder dies. executioner: takes
    the right from a holder that hangs.
    """

    me: Holder
    lock: KernelLock
    executioner: Executioner


def machine_takeover(lock_path: Path, replica: str) -> Takeover:
    """The takeover among processes of one machine.

    lock_path: the same for all replicas of the catalogue. replica: its name, for people. Raises:
    StoreUnavailable if the lock file cannot be opened.
    """
    lock = PrimaryLock(lock_path)
    return Takeover(this_process(replica), lock, HungProcesses(lock))


def this_process(replica: str) -> Holder:
    """Name this process as a holder of the lease."""
    pid = os.getpid()
    start_ticks = process_start_ticks(pid)
    if start_ticks is None:
        raise StoreUnavailable(
            "/proc is not mounted, so replicas cannot tell a hung primary from a new process"
        )
    boot_id = _BOOT_ID.read_text().strip()
    return Holder(f"{replica}/{secrets.token_hex(4)}", pid, start_ticks, boot_id)


def process_start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is no such process.

    Source: field 22 of /proc/PID/stat, proc(5). The name in field 2 may hold spaces and brackets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def waits_for_disk(pid: int) -> bool:
    """A thread is in uninterruptible sleep (state D of proc(5)), as during a slow fsync."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = stat.read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "D":
            logger.info("process %d lets its lease expire because it waits for the disk", pid)
            return True
    return False


class FileLock:
    """An exclusive flock on a file; not inherited by programs this process starts, freed at its death."""

    def __init__(self, path: Path) -> None:
        """path: created if missing. Raises: StoreUnavailable if it cannot be."""
        self._path = path
        self._fd: int | None = None
        try:
            os.close(self._open())
        except OSError as error:
            raise StoreUnavailable(f"the lock file {path} cannot be opened: {error.strerror}") from error

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self) -> bool:
        """Try to take it, without waiting; True if it is held now."""
        if self._fd is not None:
            if self.intact():
                return True
            self.drop()
        try:
            fd = self._open()
        except OSError as error:
            logger.warning("the lock file %s cannot be opened: %s", self._path, error.strerror)
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        if not self.intact():
            # Somebody replaced the file between open and lock.
            self.drop()
            return False
        return True

    def drop(self) -> None:
        """Free it, if it is held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def intact(self) -> bool:
        """It is held, and on the very file that is at the path now."""
        if self._fd is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return False

    def holder_pids(self) -> list[int] | None:
        """Processes that hold the lock, as far as this one may see them; None if the kernel does not tell.

        Source: proc_locks(5).
        """
        try:
            inode = self._path.stat().st_ino
            locks = Path("/proc/locks").read_text()
        except OSError:
            return None
        pids = []
        for line in locks.splitlines():
            fields = line.split()
            if fields[1:2] == ["FLOCK"] and fields[5].split(":")[2] == str(inode) and int(fields[4]) > 0:
                pids.append(int(fields[4]))
        return pids


class PrimaryLock:
    """The lock of the primary, and beside it the lock of those that are about to claim the lease.

    The first is held for a whole reign, the second only from taking the first until the claim succeeded or
    failed. So a process that holds the first alone is a primary, and may be killed when its lease is over;
    one that holds both is only trying, perhaps in vain on a full disk, and must not be.
    """

    def __init__(self, path: Path) -> None:
        """path: of the primary's lock. Raises: StoreUnavailable if it cannot be created."""
        self.reign = FileLock(path)
        self.claim = FileLock(path.with_name(f"{path.name}.claim"))

    def take(self) -> bool:
        """Try to take both, without waiting; True if both are held now."""
        if self.claim.take():
            if self.reign.take():
                return True
            self.claim.drop()
        return False

    def settle(self) -> None:
        """The claim succeeded: the lock of the primary alone is kept."""
        self.claim.drop()

    def drop(self) -> None:
        """Free whatever is held."""
        self.reign.drop()
        self.claim.drop()

    def intact(self) -> bool:
        """The primary's lock is held, on the very file that others would lock."""
        return self.reign.intact()


class HungProcesses:
    """Kills holders that hang. Only ever sends SIGKILL, and never to this process."""

    def __init__(self, lock: PrimaryLock) -> None:
        """lock: whose holders may be killed."""
        self._lock = lock

    def kill_holder(self, holder: Holder, still_hung: Callable[[], bool]) -> bool:
        """Kill the primary `holder`; True once it is gone, or if it was, or if it has given up the lock.

        It is left alone (False) while it or another replica is claiming, so a process that lost the lease
        and tries to get it back is not killed for its old one; and while one of its threads waits for the
        disk: then it lives, will step down by itself, and its successor would wait for the same disk.
        still_hung: asked after the process is pinned and right before the signal; False: it is left alone.
        """
        if not self._lock.claim.take():
            return False
        try:
            return _kill(
                holder.pid,
                lambda: (
                    process_start_ticks(holder.pid) == holder.pid_start_ticks
                    and _holds(holder.pid, self._lock.reign)
                ),
                lambda: still_hung() and not waits_for_disk(holder.pid),
                f"{holder.name} let its lease expire",
            )
        finally:
            self._lock.claim.drop()

    def kill_lock_holders(self, still_hung: Callable[[], bool]) -> bool:
        """Kill whoever has held the locks for long without a valid lease; True once nobody does.

        still_hung: as in `kill_holder`.
        """
        gone = True
        for lock in (self._lock.reign, self._lock.claim):
            for pid in lock.holder_pids() or []:
                gone &= _kill(
                    pid,
                    lambda pid=pid, lock=lock: _holds(pid, lock),  # type: ignore[misc]
                    still_hung,
                    "it holds the lock without a lease",
                )
        return gone


def _holds(pid: int, lock: FileLock) -> bool:
    """Whether the process has the lock; where the kernel does not tell, it is taken to."""
    pids = lock.holder_pids()
    return pids is None or pid in pids


def _kill(pid: int, is_the_one: Callable[[], bool], still_hung: Callable[[], bool], reason: str) -> bool:
    if pid == os.getpid():
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError as error:
        logger.error("process %d hangs (%s) and cannot be reached: %s", pid, reason, error)
        return False
    try:
        # Checked after pinning: if it is the right process now, the pidfd is that process and no later one.
        if _ended(pidfd, 0) or not is_the_one():
            return True
        if not still_hung():
            return False
        logger.warning("killing process %d: %s", pid, reason)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return _ended(pidfd, _DEATH_TIMEOUT_MS)
    except ProcessLookupError:
        return True
    except PermissionError:
        logger.error("process %d hangs (%s), but this user may not kill it", pid, reason)
        return False
    finally:
        os.close(pidfd)


def _ended(pidfd: int, timeout_ms: int) -> bool:
    """A pidfd becomes readable when its process has ended, whether or not its parent has noticed."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_ms))
