"""Wall clocks that jump: a caller's, or a replica's by libfaketime. The monotonic clock goes on as ever."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drills.experiment import Need
from drills.faults.process import Clustered, one_standby, sole_primary
from drills.rig.cluster import NAMES, ClusterPlan

PRIMARY = "primary"
STANDBY = "standby"
LIBRARY = "faketime/libfaketimeMT.so.1"
_FOLDERS = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
SETTLE_S = 1.2
"""libfaketime looks at its file once a second."""


def find_library(given: Path | None = None) -> Path | None:
    """libfaketime for threads: the given file, else the one of the distribution; None where there is none."""
    if given is not None:
        return given.resolve() if given.is_file() else None
    for folder in _FOLDERS:
        for path in (folder / LIBRARY, *sorted(folder.glob(f"*-linux-gnu*/{LIBRARY}"))):
            if path.is_file():
                return path
    return None


def library_need(given: Path | None) -> Need:
    """The need for it as an experiment states it."""

    def missing() -> str | None:
        if find_library(given) is not None:
            return None
        where = f"at {given}" if given is not None else "installed"
        return f"libfaketime is not {where}; apt-get install libfaketime, or name it with --libfaketime FILE"

    return Need("libfaketime", missing)


def movable(plan: ClusterPlan, folder: Path, library: Path) -> ClusterPlan:
    """The plan with replicas whose wall clocks can be moved, each by a file of its own in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[str, Mapping[str, str]] = {}
    for name in NAMES[: plan.replicas]:
        _write(folder / name, 0)
        own[name] = {
            **plan.own_environment.get(name, {}),
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str((folder / name).resolve()),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }
    return replace(plan, own_environment=own)


def _write(path: Path, offset_s: int) -> None:
    """By rename: libfaketime may look at any moment."""
    half = path.with_name(f"{path.name}.part")
    half.write_text(f"{offset_s:+d}\n", encoding="utf-8")
    half.replace(path)


@dataclass(frozen=True)
class MoveClock:
    """Moves the wall clock of one replica; undone by moving it back.

    whose: PRIMARY or STANDBY. offset_s: how far. folder: as given to `movable`.
    """

    whose: str
    offset_s: int
    folder: Path

    @property
    def name(self) -> str:
        """What jumps, and how far."""
        return f"clock of the {self.whose} {self.offset_s:+d} s"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Moves it; returns once the replica has seen it. Raises Inconclusive where there is no such
        replica."""
        cluster = subject.cluster
        replica = sole_primary(cluster) if self.whose == PRIMARY else one_standby(cluster)
        instant_s = time.monotonic()
        _write(self.folder / replica.name, self.offset_s)
        time.sleep(SETTLE_S)
        return {"replica": replica.name, "offset_s": self.offset_s, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Moves every clock back."""
        for replica in subject.cluster.replicas:
            _write(self.folder / replica.name, 0)


@dataclass
class MoveCallersClock:
    """Moves the wall clock of the callers that `skew_s` tells; undone by moving it back. For one run."""

    offset_s: int
    name: str = "clock of the callers"
    _skew_s: list[float] = field(default_factory=lambda: [0.0])

    def skew_s(self) -> float:
        """How much the callers' clock is ahead now, seconds."""
        return self._skew_s[0]

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Moves it."""
        instant_s = time.monotonic()
        self._skew_s[0] = float(self.offset_s)
        return {"replica": "", "offset_s": self.offset_s, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Moves it back."""
        self._skew_s[0] = 0.0
