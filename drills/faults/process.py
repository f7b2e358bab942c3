"""Things going wrong, each with its undoing. A fault knows the cluster, never the judge."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from drills.experiment import Inconclusive
from drills.rig.cluster import Cluster, ClusterError, Replica


class Clustered(Protocol):
    """A subject that has replicas."""

    @property
    def cluster(self) -> Cluster:
        """The replicas."""
        ...


def running(subject: Clustered) -> list[Replica]:
    """The replicas that have not ended."""
    return [replica for replica in subject.cluster.replicas if replica.running]


def bring_back(subject: Clustered) -> None:
    """Starts every replica that is not running."""
    for replica in subject.cluster.replicas:
        subject.cluster.restart(replica)


@dataclass(frozen=True)
class KillPrimary:
    """kill -9 of the primary; undone by starting it again, as a standby, at the address it had."""

    name: str = "kill"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Kills whoever is primary now. Raises Inconclusive where there is no single primary."""
        try:
            primary = subject.cluster.primary()
        except ClusterError as error:
            raise Inconclusive(str(error)) from error
        # The recovery counts from before the signal: the time the kernel takes to end the process is the
        # caller's waiting time too.
        instant_s = time.monotonic()
        pid = subject.cluster.kill(primary)
        return {"replica": primary.name, "pid": pid, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Starts every replica that is not running."""
        bring_back(subject)
