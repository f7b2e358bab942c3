"""Drill: the disk below the log becomes slow.

    python -m drills.slow_disk --json --journal DIR
    python -m drills.slow_disk --without shedding       the control: must deviate

Every fsync and fdatasync of every replica is delayed by 200 ms (they share one disk), while more writes are
offered than such a disk can take. Groups of at most four events are committed together here, so that this is
so at a rate which one load generator can offer.

Hypothesis: no read fails, and 99 % of the reads during the fault are answered in time; writes beyond what the
disk can do are refused within their deadline, none is silent beyond it; no acknowledged write is lost; and
once the disk is fast again all writes succeed, by themselves.

The lease lasts 2 s here, as docs/reliability.md asks for a disk whose syncs take 200 ms: a commit may wait
for three of them.
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
from drills.faults.disk import SlowDisk, strace_need
from drills.journal import Journal
from drills.judges.disk import SLOW_DISK_FIGURES, SlowDiskLimits, judge_slow_disk
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable, except_during

NAME = "slow_disk"
HYPOTHESIS = (
    "reads go on in time, writes beyond what the disk can do are refused within their deadline, no "
    "acknowledged write is lost, and all succeed again once the disk does"
)
EMPTY: dict[str, Any] = {"runs": 0, **SLOW_DISK_FIGURES}
WRITE_DEADLINE_MS = 1000.0
GROUP_EVENTS = 4
LEASE_MS = 2000


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The slow disk as a value."""
    fault = SlowDisk(given.delay_ms)

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        journal.write("tampered", calls=fault.delayed())
        collect_log(rehearsal, journal)

    base = failover.experiment(seed=seed, bundle=given.bundle, during_s=given.slow_s)
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        probes=except_during(base.probes, "writes are acknowledged", "there is one primary"),
        fault=fault,
        judge=lambda history: judge_slow_disk(history, SlowDiskLimits()),
        collect=collect,
        after_s=5.0,
        needs=(*base.needs, strace_need()),
    )


def changes(given: argparse.Namespace) -> Changes:
    """Small groups and a lease that outlasts the slow syncs."""
    return Changes(
        settings={"catalogue": {"group_events_max": GROUP_EVENTS}, "lease": {"ttl_ms": LEASE_MS}},
        write_deadline_ms=WRITE_DEADLINE_MS,
        noted={"delay_ms": given.delay_ms, "group_events_max": GROUP_EVENTS, "lease_ms": LEASE_MS},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        f"{figures['read_errors']} of {figures['reads']} reads failed; of {figures['fault_writes']} writes "
        f"on the slow disk {figures['fault_writes_acknowledged']} were acknowledged, "
        f"{figures['fault_writes_refused']} refused",
        ("writes back", figures["writes_back_ms"]),
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options; more writes than the disk will take."""
    options.add_argument("--delay-ms", type=positive(float), default=200.0, help="of each sync")
    options.add_argument("--slow-s", type=positive(float), default=8.0, help="how long the disk is slow")
    options.set_defaults(writes=60.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("shedding",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
