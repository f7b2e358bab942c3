"""Drill: a replica comes back with empty caches, under load.

    python -m drills.cold_start --json --journal DIR
    python -m drills.cold_start --without warming       the control: must deviate

A standby is killed; what the system keeps of its models, generations and core is dropped, but for what other
replicas map; it is started again. A steady stream asks it alone all the while, and goes on once it serves. In
the control its health says that it serves from the first moment.

Hypothesis: it is not SERVING before it is warm, that is, each of its answers of the first 3 s after it is
comes within its deadline of 50 ms; no read fails through the client, no acknowledged write is lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal
from drills.faults.caches import ColdStart
from drills.judges.warmth import WARMTH_FIGURES, WarmthLimits, judge_cold_start
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable, direct_load

NAME = "cold_start"
HYPOTHESIS = (
    "a replica with empty caches is not SERVING before it is warm: each of its first answers comes in time"
)
EMPTY: dict[str, Any] = {"runs": 0, **WARMTH_FIGURES}


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The cold start as a value."""
    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=WarmthLimits.first_s + 0.5),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=lambda rehearsal, journal, seed: direct_load(
            rehearsal,
            journal,
            seed,
            direct_per_s=lambda replica: given.direct,
            deadline_ms=given.direct_deadline_ms,
        ),
        fault=ColdStart(),
        judge=lambda history: judge_cold_start(history, WarmthLimits()),
    )


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a start beside it does not disturb: a change of primary is another drill's."""
    return Changes(
        settings={"lease": {"ttl_ms": 5000}},
        noted={"deadline_ms": given.direct_deadline_ms, "direct_per_s": given.direct},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"serving after {figures['serving_after_s']} s; {figures['first_in_time']} of the first "
        f"{figures['first_asked']} answers in time, p95 {figures['first_p95_ms']} ms "
        f"(warm {figures['warm_p95_ms']} ms)"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument(
        "--direct", type=positive(float), default=20.0, metavar="PER_S", help="to each replica alone"
    )
    options.add_argument(
        "--direct-deadline-ms", type=positive(float), default=50.0, help="of a search of that stream"
    )
    options.set_defaults(reads=30.0, writes=10.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("warming",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
