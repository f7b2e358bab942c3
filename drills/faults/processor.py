"""Cores that are taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.faults.groups import Group
from drills.faults.process import Clustered, bring_back, one_standby


@dataclass
class SlowCore:
    """A standby gets a share of one core and no more.

    share: of a core. period_ms: in each such period it may run for its share, then it stands still to its
    end. A short one is a slow core; a long one is a core that stops.
    """

    share: float
    period_ms: float
    name: str = "slow_core"
    victim: str = ""
    """The replica's name; empty where none was found."""
    throttled_ms: float = 0.0
    """How long it had stood still for want of its core when the fault was undone."""
    _group: Group | None = None

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Puts the first standby into its group. Raises: Inconclusive."""
        cluster = subject.cluster
        replica = one_standby(cluster)
        self._group = group = Group("cpu")
        period_us, quota_us = round(self.period_ms * 1000), round(self.period_ms * 1000 * self.share)
        if group.version == 1:
            group.set("cpu.cfs_period_us", str(period_us))
            group.set("cpu.cfs_quota_us", str(quota_us))
        else:
            group.set("cpu.max", f"{quota_us} {period_us}")
        self.victim = replica.name
        group.take(replica.pid)
        return {"replica": replica.name, "pid": replica.pid, "share": self.share, "period_ms": self.period_ms}

    def rollback(self, subject: Clustered) -> None:
        """Gives the replica its cores back, and starts again what has ended."""
        if self._group is not None:
            counts = self._group.counts("cpu.stat")
            # Version 1 counts nanoseconds, version 2 microseconds.
            self.throttled_ms = max(
                counts.get("throttled_time", 0) / 1e6, counts.get("throttled_usec", 0) / 1e3
            )
            self._group.remove()
        bring_back(subject.cluster)
