"""Drill: a wall clock jumps by an hour, forwards and back: that of callers, of the primary, of a standby.

    python -m drills.clock_jump --json                     needs root and libfaketime
    python -m drills.clock_jump --whose callers --json     needs root alone
    python -m drills.clock_jump --plant lease              the negative control: the lease does change hands

Hypothesis: no request fails for it, none runs past its deadline, the lease stays where it is, and nothing
acknowledged is lost.

Callers tell a replica their deadline as a duration (gRPC's) and by their own clock
(`muster-deadline-unix-us`). On one machine both clocks are one, so the drill gives its replicas an address
that is not loopback's, inside a network namespace that nothing leads out of: as on two machines, a replica
then has to find out how far the clocks are apart. Connections are replaced now and then, so that it has seen
few calls of some.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Fault, Judgement, Need, Probe
from drills.failover import (
    Rehearsal,
    all_serve_reads,
    client_streams,
    one_primary,
    writes_are_acknowledged,
)
from drills.faults.clock import (
    PRIMARY,
    STANDBY,
    MoveCallersClock,
    MoveClock,
    find_library,
    library_need,
    movable,
)
from drills.faults.process import KillPrimary
from drills.journal import History, Journal
from drills.judges.clock import ClockLimits, judge_clock_jump
from drills.partition import collect
from drills.rehearsal import Changes, Rehearsable
from drills.rig.cluster import ClusterPlan
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.namespace import add_address, enter
from drills.rig.traffic import RecordedLoad, SkewedReads

NAME = "clock_jump"
HYPOTHESIS = (
    "when a wall clock jumps by an hour no request fails or runs past its deadline, and the lease stays"
    " where it is"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "skewed_reads": 0,
    "skewed_errors": 0,
    "overrun_ms": None,
    "takeovers": 0,
    "reads": 0,
    "read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
CALLERS = "callers"
KINDS = (CALLERS, PRIMARY, STANDBY)
HOUR_S = 3600
SKEWED_PER_S = 20.0
DEADLINE_MS = 250.0
LEASE = "lease"
CLOCKS = "clocks"
"""The folder of the replicas' clocks, in that of the record."""


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One jump as a value, forwards and back in turn. given.part: one of KINDS."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    whose, offset_s = given.part, -HOUR_S if (seed - given.seed) % 2 else HOUR_S
    callers = MoveCallersClock(offset_s)
    fault: Fault[Any] = callers if whose == CALLERS else MoveClock(whose, offset_s, given.folder / CLOCKS)
    base = failover.experiment(seed=seed, bundle=given.bundle, store=given.store)
    needs: tuple[Need, ...] = () if whose == CALLERS else (library_need(given.libfaketime),)

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        addresses = {replica.name: replica.address for replica in rehearsal.cluster.replicas}
        skewed = SkewedReads(addresses, rehearsal.queries, deadline_ms=DEADLINE_MS, skew_s=callers.skew_s)
        streams = (
            *client_streams(rehearsal, seed),
            Stream("skewed_read", even_arrivals(SKEWED_PER_S * len(addresses)), skewed),
        )
        rehearsal.load = RecordedLoad(OpenLoop(streams), journal)
        return rehearsal.load

    def judge(history: History) -> Judgement:
        return judge_clock_jump(history, ClockLimits(deadline_ms=DEADLINE_MS))

    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("writes are acknowledged", writes_are_acknowledged, around),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=KillPrimary() if given.plant == LEASE else fault,
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=4.0,
        after_s=3.0,
        needs=(*base.needs, *needs),
    )


def changes(given: argparse.Namespace) -> Changes:
    """Another address than loopback's, and replicas whose clocks can be moved."""

    def plan(asked: ClusterPlan) -> ClusterPlan:
        elsewhere = replace(asked, host=add_address())
        library = find_library(given.libfaketime)
        if given.part == CALLERS or library is None:
            return elsewhere
        return movable(elsewhere, given.folder / CLOCKS, library)

    return Changes(plan=plan)


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['read_errors']} of {figures['reads']} reads failed, "
        f"{figures['skewed_errors']} of {figures['skewed_reads']} at single replicas; "
        f"{figures['takeovers']} takeovers"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--whose", choices=KINDS, help="clock (default: each)")
    options.add_argument("--libfaketime", type=Path, metavar="FILE", help="where it is not installed")
    options.add_argument("--plant", choices=(LEASE,), help="a fault that the judge must find")


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    runs=2,
    runs_help="jumps of each clock, to and fro",
    parts=lambda given: (given.whose,) if given.whose else KINDS,
    begin=lambda given, arguments: enter("drills.clock_jump", arguments, filters=False),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
