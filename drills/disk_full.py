"""Drill: the disk that holds the data folder is full.

    python -m drills.disk_full --json --journal DIR
    python -m drills.disk_full --without room       the control: must deviate

The data folder of the replicas is a small tmpfs, which the drill fills to its last byte under load and
empties again. Mounting it needs root; without, the drill starts itself again in a user and mount namespace of
its own, where those are allowed.

Hypothesis: while the disk is full writes are refused as RESOURCE_EXHAUSTED within their deadline (those for
which the log still has room of its own may succeed), no read fails; once there is room writes succeed by
themselves, and no acknowledged write is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, in_words
from drills.failover import Rehearsal
from drills.faults.disk import FullDisk, mount_need, small_disk
from drills.judges.disk import DISK_FULL_FIGURES, DiskFullLimits, judge_disk_full
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable, except_during

NAME = "disk_full"
HYPOTHESIS = (
    "on a full disk writes are refused as RESOURCE_EXHAUSTED, reads go on, and once there is room writes "
    "succeed by themselves; no acknowledged write is lost"
)
EMPTY: dict[str, Any] = {"runs": 0, **DISK_FULL_FIGURES}
WRITE_DEADLINE_MS = 1000.0
LEASE_MS = 2000
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_INSIDE = "DRILL_NAMESPACE"


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The full disk as a value."""
    base = failover.experiment(seed=seed, bundle=given.bundle, during_s=given.full_s)
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        probes=except_during(base.probes, "writes are acknowledged", "there is one primary"),
        fault=FullDisk(),
        judge=lambda history: judge_disk_full(history, DiskFullLimits()),
        after_s=5.0,
        needs=(*base.needs, mount_need(Path(tempfile.gettempdir()))),
    )


def changes(given: argparse.Namespace) -> Changes:
    """The small disk below the data folder."""

    def around(folder: Path) -> contextlib.AbstractContextManager[None]:
        return small_disk(folder / "cluster" / "data", given.disk_mib)

    return Changes(
        # Three leases pass while the disk is full; one that a busy machine does not end meanwhile.
        settings={"lease": {"ttl_ms": LEASE_MS}},
        write_deadline_ms=WRITE_DEADLINE_MS,
        around=around,
        noted={"disk_mib": given.disk_mib, "lease_ms": LEASE_MS},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        f"{figures['read_errors']} of {figures['reads']} reads failed; of {figures['fault_writes']} writes "
        f"on the full disk {figures['fault_writes_refused']} were refused, {figures['fault_writes_other']} "
        "ended otherwise",
        ("writes back", figures["writes_back_ms"]),
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--disk-mib", type=positive(int), default=64, help="size of the disk")
    options.add_argument("--full-s", type=positive(float), default=6.0, help="how long it is full")


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("room",),
)


def enter_namespace(arguments: Sequence[str]) -> None:
    """Becomes this drill in a user and mount namespace of its own, where that is needed and allowed."""
    if os.geteuid() == 0 or _INSIDE in os.environ or shutil.which(_NAMESPACE[0]) is None:
        return
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        return
    command = [*_NAMESPACE, sys.executable, "-m", f"drills.{NAME}", *arguments]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    enter_namespace(arguments)
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
