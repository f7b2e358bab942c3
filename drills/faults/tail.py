"""A standby that stops following the log while all else of it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drills.faults.process import Clustered, one_standby
from drills.rig.cluster import NAMES, ClusterPlan

FREEZE_TAIL = "MUSTER_DRILL_FREEZE_TAIL"
"""Of a replica's environment: the folder whose files freeze its tailer, see `server.catalogue.failpoint`."""

LOOK = "look"
DELIVER = "deliver"
PLACES = (LOOK, DELIVER)


def freezable(plan: ClusterPlan, folder: Path) -> ClusterPlan:
    """The plan with replicas whose tailers can be frozen, each by a folder of its own in this one."""
    own: dict[str, Mapping[str, str]] = {}
    for name in NAMES[: plan.replicas]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        own[name] = {**plan.own_environment.get(name, {}), FREEZE_TAIL: str((folder / name).resolve())}
    return replace(plan, own_environment=own)


@dataclass(frozen=True)
class FreezeTailer:
    """Freezes a standby's tailer; undone by letting it go on.

    place: LOOK, before it looks at the log, so that it knows of nothing new; DELIVER, before it applies what
    it has read, so that it knows that it is behind. folder: as given to `freezable`.
    """

    place: str
    folder: Path

    @property
    def name(self) -> str:
        """What is frozen."""
        return f"freeze tail before {self.place}"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Freezes one. Raises Inconclusive where there is no standby."""
        standby = one_standby(subject.cluster)
        instant_s = time.monotonic()
        (self.folder / standby.name / self.place).touch()
        return {"replica": standby.name, "place": self.place, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Lets every tailer go on."""
        for name in NAMES:
            for place in PLACES:
                (self.folder / name / place).unlink(missing_ok=True)
