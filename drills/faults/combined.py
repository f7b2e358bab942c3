"""Several faults at their moments, each undone by itself; whatever is left is undone at the end."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drills.faults.network import Networked, proxy_of
from drills.faults.process import bring_back
from drills.rig.cluster import Replica
from drills.schedule import CUT, KILL, PRIMARY, SLOW, STOP, Schedule, Step

LATENCY_MS = 40.0
"""Of a slow way, there and back together."""
_UNDO, _DO = 0, 1


@dataclass
class Combined:
    """A schedule as one fault: its injection takes as long as the schedule. For one run.

    link: the name of the link by which clients reach a replica, from that of the replica.
    """

    schedule: Schedule
    link: Callable[[str], str]
    name: str = "schedule"
    _harmed: dict[str, Step] = field(default_factory=dict)

    def inject(self, subject: Networked) -> dict[str, Any]:
        """Does each step at its moment. "steps": what was done to whom, seconds from the beginning; replica
        None: nobody of that role was sound, or nobody else.
        """
        began_s = time.monotonic()
        order = itertools.count()
        moments: list[tuple[float, int, int, Step, str]] = [
            (step.at_s, _DO, next(order), step, "") for step in self.schedule.steps
        ]
        heapq.heapify(moments)
        done: list[dict[str, Any]] = []
        while moments:
            at_s, what, _, step, name = heapq.heappop(moments)
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            if what == _UNDO:
                self._undo(subject, step, self._replica(subject, name))
                continue
            victim = self._victim(subject, step)
            entry = {"step": str(step), "replica": None if victim is None else victim.name}
            done.append({**entry, "after_s": round(time.monotonic() - began_s, 3)})
            if victim is None:
                continue
            self._harmed[victim.name] = step
            self._do(subject, step, victim)
            # From now on, so that a late machine does not make a fault shorter.
            end_s = time.monotonic() - began_s + step.lasts_s
            heapq.heappush(moments, (end_s, _UNDO, next(order), step, victim.name))
        return {"steps": done, "instant_s": began_s}

    def rollback(self, subject: Networked) -> None:
        """Wakes, starts and heals everybody."""
        self._harmed.clear()
        proxy_of(subject).heal()
        bring_back(subject.cluster)

    def _victim(self, subject: Networked, step: Step) -> Replica | None:
        sound = [one for one in subject.cluster.replicas if one.running and one.name not in self._harmed]
        # Somebody must be left, or callers are promised nothing.
        if len(sound) < 2:
            return None
        primaries = {one.name for one in subject.cluster.primaries()}
        wanted = [one for one in sound if (one.name in primaries) == (step.whose == PRIMARY)]
        return wanted[0] if wanted else None

    def _do(self, subject: Networked, step: Step, replica: Replica) -> None:
        if step.kind == KILL:
            subject.cluster.kill(replica)
        elif step.kind == STOP:
            subject.cluster.stop(replica)
        elif step.kind == CUT:
            proxy_of(subject).links[self.link(replica.name)].cut()
        elif step.kind == SLOW:
            proxy_of(subject).links[self.link(replica.name)].slow(latency_ms=LATENCY_MS / 2)

    def _undo(self, subject: Networked, step: Step, replica: Replica) -> None:
        self._harmed.pop(replica.name, None)
        if step.kind in (CUT, SLOW):
            proxy_of(subject).links[self.link(replica.name)].heal()
            return
        if step.kind == STOP:
            subject.cluster.wake(replica)
        # One that was stopped may have been killed by whoever took over.
        subject.cluster.restart(replica)

    @staticmethod
    def _replica(subject: Networked, name: str) -> Replica:
        return next(one for one in subject.cluster.replicas if one.name == name)
