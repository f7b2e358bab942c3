"""Drill: one replica runs out of memory.

    python -m drills.memory_pressure --json --journal DIR
    python -m drills.memory_pressure --without isolation       the control: must deviate

The primary is put into a memory group of its own, with a limit below what it holds; a ballast beside it takes
all there is. Without isolation all replicas are in that one group.

Hypothesis: that replica is ended by the kernel and dies alone; a standby takes over, no read fails, no
acknowledged write is lost or doubled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, in_words
from drills.failover import Rehearsal, collect_log
from drills.faults.groups import group_need
from drills.faults.memory import OutOfMemory
from drills.journal import Journal
from drills.judges.starvation import MEMORY_FIGURES, MemoryLimits, judge_memory_pressure
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable

NAME = "memory_pressure"
HYPOTHESIS = (
    "a replica that runs out of memory dies alone, a standby takes over, no read fails, no acknowledged "
    "write is lost"
)
EMPTY: dict[str, Any] = {"runs": 0, **MEMORY_FIGURES}
LEASE_MS = 2000


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The pressure as a value."""
    fault = OutOfMemory(given.limit_mib, together=given.without == "isolation")

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        for replica, code in fault.ended.items():
            journal.write("exit", replica=replica, code=code)
        journal.write("oom", kills=fault.kills)
        collect_log(rehearsal, journal)

    base = failover.experiment(seed=seed, bundle=given.bundle)
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=fault,
        judge=lambda history: judge_memory_pressure(history, MemoryLimits()),
        collect=collect,
        needs=(*base.needs, group_need("memory")),
    )


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a busy machine does not end: the fault here is death, not hanging."""
    return Changes(
        settings={"lease": {"ttl_ms": LEASE_MS}},
        noted={"limit_mib": given.limit_mib, "lease_ms": LEASE_MS},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        f"{figures['victims_ended']} victim and {figures['others_ended']} others ended, "
        f"{figures['read_errors']} of {figures['reads']} reads failed",
        ("writes back", figures["rto_ms"]),
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--limit-mib", type=positive(int), default=96, help="of the memory group")


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("isolation",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
