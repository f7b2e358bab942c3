"""The fast signal that a primary is gone: a kernel's file lock, or a session's advisory lock.

Beside each lock stands who may end a hung holder, and how: the kernel kills a process, the server ends its
sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from server.standby.lease import Holder, LeaseRow
from tests.simulation.stores import Store

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Lock:
    """What `KernelLock` and `Executioner` are to the keeper.

    end: ends a holder, or its sessions. find: who may be ended of those that the lease names: a primary that
    holds the lock, or whoever has sessions. waits_for_disk: drawn at each attempt: the holder is in
    uninterruptible sleep, so it is left alone. spares_claimers: nobody is ended while somebody claims.
    """

    spares_claimers = True

    def __init__(
        self,
        store: Store,
        *,
        end: Callable[[Process], None],
        find: Callable[[Holder], Process | None],
        waits_for_disk: Callable[[], bool],
    ) -> None:
        self.store = store
        self._find = find
        self.owner: Process | None = None
        self.claimer: Process | None = None
        self._end = end
        self._waits_for_disk = waits_for_disk

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
        """Free it: its holder asks, or is gone."""
        if self.owner is process:
            self.owner = None
        self.settle(process)

    def intact(self, process: Process) -> bool:
        """The process holds the lock that others would take."""
        return self.owner is process

    def replace_file(self) -> None:
        """Somebody deletes the lock file: whoever held it holds a file that nobody else would lock."""
        self.owner = self.claimer = None

    def kill_holder(self, row: LeaseRow) -> bool:
        """End the holder of the expired lease, if it is not claiming again; True once it is gone."""
        if self.claimer is not None and self.spares_claimers:
            return False
        victim = self._find(row.holder)
        if victim is None:
            return True
        if not self.still_the_row(row) or self._waits_for_disk():
            return False
        self._execute(victim)
        return True

    def kill_lock_holders(self, killer: Process, epoch: int) -> bool:
        """End whoever has held the lock for long without a lease; True once nobody does."""
        victim = self.owner
        if victim is killer or self.store.tables.epoch != epoch:
            return False
        if victim is not None:
            self._execute(victim)
        return True

    def still_the_row(self, row: LeaseRow) -> bool:
        """Asked right before the end: the lease is still the very row that expired."""
        return self.store.tables.lease == row

    def _execute(self, victim: Process) -> None:
        lease = self.store.tables.lease
        own = lease is not None and lease.holder == victim.holder
        valid = own and lease is not None and lease.expires_monotonic_ns > self.store.true_now_ns(victim)
        # Where clocks disagree, the valid lease of one is the expired one of another.
        self.store.tables.witness.kills(victim.holder.name, valid=valid and not victim.world.faults.skew_ms)
        self._end(victim)
