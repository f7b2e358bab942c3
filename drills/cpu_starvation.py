"""Drill: one replica gets a fifth of a core.

    python -m drills.cpu_starvation --json --journal DIR
    python -m drills.cpu_starvation --without deadlines       the control: must deviate

A standby is put into a processor group with a quota, in periods so short (10 ms) that it is slow rather than
stopped (`--period-ms`). Each replica is asked by a steady stream of its own, without hedging or retry, the
starved one for twice what its share can do by the best plan (`--demand`; the capacity of a core is
measured first), and callers search through the client beside it; all with 50 ms deadlines. In the control the
replicas are told deadlines of 5 s instead.

Hypothesis, from 2 s after the fault on: each replica answers in time 98 % of the searches that it does not
refuse in time, the starved one by giving less quality, and answers some; through the client, which may ask
another replica, 99 % of all searches are answered in time; no acknowledged write is lost. 98, because the
planner keeps free the 98th percentile of how late answers came. Chance is allowed for: only fewer than it
explains (one in twenty runs) is a deviation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal, collect_log
from drills.faults.groups import group_need
from drills.faults.process import one_standby
from drills.faults.processor import SlowCore
from drills.journal import Journal
from drills.judges.starvation import STARVATION_FIGURES, StarvationLimits, judge_cpu_starvation
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable, direct_load
from drills.rig.capacity import measure_capacity
from drills.rig.shop import requests_for
from drills.rig.traffic import RecordedLoad

NAME = "cpu_starvation"
HYPOTHESIS = (
    "a replica with a fifth of a core answers 98 % of what it does not refuse in time, with less quality, "
    "and callers of the client get 99 % of their answers in time"
)
EMPTY: dict[str, Any] = {"runs": 0, **STARVATION_FIGURES}
TOLD_MS = 5000.0
"""What the replicas are told in the control."""
MEASURED_S = 1.5
"""How long the capacity of a core is measured."""


def load(rehearsal: Rehearsal, journal: Journal, seed: int, given: argparse.Namespace) -> RecordedLoad:
    """More searches for the standby that will be starved than its share of a core can answer in full."""
    requests = requests_for(rehearsal.queries)
    capacity = measure_capacity(rehearsal.cluster, requests, concurrency=1, duration_s=MEASURED_S)
    starved = one_standby(rehearsal.cluster)
    starved_per_s = max(given.direct, given.demand * given.share * capacity.per_s)
    journal.write("demand", replica=starved.name, per_s=starved_per_s, capacity_per_s=capacity.per_s)
    return direct_load(
        rehearsal,
        journal,
        seed,
        direct_per_s=lambda replica: starved_per_s if replica is starved else given.direct,
        deadline_ms=given.deadline_ms,
        told_ms=TOLD_MS if given.without == "deadlines" else None,
    )


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The starvation as a value."""
    fault = SlowCore(given.share, given.period_ms)

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        journal.write("throttled", ms=round(fault.throttled_ms, 1))
        collect_log(rehearsal, journal)

    base = failover.experiment(seed=seed, bundle=given.bundle, during_s=given.starved_s)
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        # With deadlines this short the judge counts; a single late answer is no broken state.
        probes=tuple(probe for probe in base.probes if probe.name != "reads are answered"),
        load=lambda rehearsal, journal, seed: load(rehearsal, journal, seed, given),
        fault=fault,
        judge=lambda history: judge_cpu_starvation(history, StarvationLimits()),
        collect=collect,
        needs=(*base.needs, group_need("cpu")),
    )


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a slow replica does not disturb: a change of primary is another drill's."""
    return Changes(
        settings={"lease": {"ttl_ms": 5000}},
        noted={
            "deadline_ms": given.deadline_ms,
            "direct_per_s": given.direct,
            "demand": given.demand,
            "share": given.share,
            "period_ms": given.period_ms,
        },
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"the starved replica was asked {figures['starved_asked']}, refused {figures['starved_refused']}, "
        f"answered {figures['starved_in_time']} in time (quality {figures['starved_quality']}, before "
        f"{figures['starved_quality_before']}); {figures['callers_in_time_share']} of the callers' in time"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options; fewer reads and writes than a failover's."""
    options.add_argument("--share", type=positive(float), default=0.2, help="of one core")
    options.add_argument("--period-ms", type=positive(float), default=10.0, help="of the quota")
    options.add_argument(
        "--direct", type=positive(float), default=25.0, metavar="PER_S", help="to each replica alone"
    )
    options.add_argument(
        "--demand",
        type=positive(float),
        default=2.0,
        help="for the starved replica, times what its share can do by the best plan",
    )
    options.add_argument("--starved-s", type=positive(float), default=12.0, help="how long it lasts")
    options.set_defaults(reads=20.0, writes=5.0, deadline_ms=50.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("deadlines",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
