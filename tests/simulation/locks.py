"""The fast signal that a primary is gone: a kernel's file lock, or a session's advisory lock.

Beside each lock stands who may end a hung holder, and how: the kernel kills a process, the server ends its
sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from server.standby.lease import LeaseRow
from tests.simulation.stores import DatabaseServer
from tests.simulation.tables import Tables

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Lock:
    """What `KernelLock` and `Executioner` are to the keeper; holders, and those that hold it to claim."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.owner: Process | None = None
        self.claimer: Process | None = None

    def take(self, process: Process) -> bool:
        """Try to take it, in order to claim the lease."""
        if self.owner is None:
            self.owner = process
        if self.owner is process:
            self.claimer = process
        return self.owner is process

    def settle(self, process: Process) -> None:
        """The claim succeeded."""
        if self.claimer is process:
            self.claimer = None

    def drop(self, process: Process) -> None:
        """Free it."""
        if self.owner is process:
            self.owner = None
        if self.claimer is process:
            self.claimer = None

    def intact(self, process: Process) -> bool:
        """The process holds the lock that others would take."""
        return self.owner is process

    def kill_holder(self, killer: Process, row: LeaseRow) -> bool:
        """End the holder of the expired lease; True once it is gone."""
        raise NotImplementedError

    def kill_lock_holders(self, killer: Process, epoch: int) -> bool:
        """End whoever has the lock; True once nobody does."""
        raise NotImplementedError

    def still_the_row(self, row: LeaseRow) -> bool:
        """Asked right before the end: the lease is still the very row that expired."""
        return self.tables.lease == row

    def still_the_epoch(self, epoch: int) -> bool:
        """Likewise, of a lock that is held without a lease."""
        return self.tables.epoch == epoch


class FileLock(Lock):
    """One machine. The lock dies with its process; whoever hangs is killed.

    kill: ends a process. waits_for_disk: a chance outcome: the holder is in uninterruptible sleep.
    """

    def __init__(
        self, tables: Tables, kill: Callable[[Process], None], waits_for_disk: Callable[[], bool]
    ) -> None:
        super().__init__(tables)
        self._kill = kill
        self._waits_for_disk = waits_for_disk
        self._orphans: list[Process] = []

    def replace_file(self) -> None:
        """Somebody deletes the lock file: who held it holds a file that nobody else would lock."""
        self.owner = self.claimer = None

    def kill_holder(self, killer: Process, row: LeaseRow) -> bool:
        """See `Lock.kill_holder`."""
        if self.claimer is not None:
            return False
        victim = self.owner
        if victim is None or victim.holder != row.holder:
            return True
        if not self.still_the_row(row) or self._waits_for_disk():
            return False
        self._end(victim, killer)
        return True

    def kill_lock_holders(self, killer: Process, epoch: int) -> bool:
        """See `Lock.kill_lock_holders`."""
        victim = self.owner
        if victim is killer or not self.still_the_epoch(epoch):
            return False
        if victim is not None:
            self._end(victim, killer)
        return True

    def _end(self, victim: Process, killer: Process) -> None:
        lease = self.tables.lease
        valid = (
            lease is not None
            and lease.holder == victim.holder
            and lease.expires_monotonic_ns > max(victim.monotonic_ns(), killer.monotonic_ns())
        )
        self.tables.witness.kills(victim.holder.name, valid=valid)
        self._kill(victim)


class AdvisoryLock(Lock):
    """A database server. The lock dies with its session; of whoever hangs the sessions are ended."""

    def __init__(self, tables: Tables, store: DatabaseServer) -> None:
        super().__init__(tables)
        self._store = store

    def end_session(self, process: Process) -> None:
        """The session is gone: its lock is free, its transaction rolls back. The process may not know yet."""
        self.drop(process)
        self._store.abort(process)

    def kill_holder(self, killer: Process, row: LeaseRow) -> bool:
        """See `Lock.kill_holder`."""
        if self.claimer is not None:
            return False
        if not self.still_the_row(row):
            return False
        victim = self.owner
        if victim is not None and victim.holder == row.holder:
            self._end(victim)
        return True

    def kill_lock_holders(self, killer: Process, epoch: int) -> bool:
        """See `Lock.kill_lock_holders`."""
        victim = self.owner
        if victim is killer or not self.still_the_epoch(epoch):
            return False
        if victim is not None:
            self._end(victim)
        return True

    def _end(self, victim: Process) -> None:
        lease = self.tables.lease
        valid = (
            lease is not None
            and lease.holder == victim.holder
            and lease.expires_monotonic_ns > self._store.now_ns(victim)
        )
        self.tables.witness.kills(victim.holder.name, valid=valid)
        self.end_session(victim)
