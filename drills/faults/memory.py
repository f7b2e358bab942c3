"""Memory that runs out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drills.experiment import Inconclusive
from drills.faults.groups import Group
from drills.faults.process import Clustered, bring_back, running
from drills.rig.cluster import TETHER, ClusterError

_BALLAST = Path(__file__).with_name("ballast.py")
_DEATH_S = 30.0
_POLL_S = 0.005
_MIB = 1 << 20


@dataclass
class OutOfMemory:
    """The primary is put into a memory group with a limit below what it holds, beside a ballast that takes
    what there is; the kernel must end somebody, and is told to prefer replicas.

    together: all replicas share the group, as where nothing keeps them apart.
    """

    limit_mib: int
    together: bool = False
    name: str = "out_of_memory"
    ended: dict[str, int] = field(default_factory=dict)
    """What had ended when the fault was undone: replica to exit code."""
    kills: int = 0
    """Processes of the group that the kernel had ended for want of memory when the fault was undone."""
    _group: Group | None = None
    _ballast: subprocess.Popen[bytes] | None = None

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Runs the group out of memory; returns once the kernel has ended a replica. Raises: Inconclusive."""
        cluster = subject.cluster
        try:
            primary = cluster.primary()
        except ClusterError as error:
            raise Inconclusive(str(error)) from error
        self._group = group = Group("memory")
        group.set("memory.limit_in_bytes" if group.version == 1 else "memory.max", str(self.limit_mib * _MIB))
        victims = running(subject) if self.together else [primary]
        for victim in victims:
            group.take(victim.pid)
            _prefer(victim.pid, 1000)
        self._ballast = self._start_ballast(group)
        instant_s = time.monotonic()
        assert self._ballast.stdin is not None
        self._ballast.stdin.write(b"\n")
        self._ballast.stdin.close()
        while time.monotonic() < instant_s + _DEATH_S:
            if any(not victim.running for victim in victims):
                break
            time.sleep(_POLL_S)
        else:
            raise Inconclusive(f"the kernel ended no replica within {_DEATH_S:g} s")
        return {
            "replica": primary.name,
            "pid": primary.pid,
            "limit_mib": self.limit_mib,
            "died_after_s": round(time.monotonic() - instant_s, 3),
            "instant_s": instant_s,
        }

    def rollback(self, subject: Clustered) -> None:
        """Ends the ballast, removes the group, starts again what has ended."""
        for replica in subject.cluster.replicas:
            if replica.process is not None and (code := replica.process.poll()) is not None:
                self.ended[replica.name] = code
        if self._ballast is not None:
            self._ballast.kill()
            self._ballast.wait()
        if self._group is not None:
            name = "memory.oom_control" if self._group.version == 1 else "memory.events"
            self.kills = self._group.counts(name).get("oom_kill", 0)
            for replica in running(subject):
                with contextlib.suppress(Inconclusive):
                    _prefer(replica.pid, 0)
            self._group.remove()
        bring_back(subject.cluster)

    def _start_ballast(self, group: Group) -> subprocess.Popen[bytes]:
        ballast = subprocess.Popen(
            [
                *(sys.executable, "-IS", str(TETHER), str(os.getpid())),
                *(sys.executable, "-IS", str(_BALLAST), str(4 * self.limit_mib)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        group.take(ballast.pid)
        return ballast


def _prefer(pid: int, adjustment: int) -> None:
    """How much sooner than others the kernel ends a process for want of memory, -1000 (never) to 1000.
    Source: proc(5), oom_score_adj. Raises: Inconclusive where that may not be said.
    """
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(adjustment), encoding="ascii")
    except OSError as error:
        sentence = f"oom_score_adj of process {pid} cannot be set: {error.strerror}; run as root"
        raise Inconclusive(sentence) from error
