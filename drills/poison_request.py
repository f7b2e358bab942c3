"""Drill: malformed and strange requests, again and again, beside the load of decent callers.

    python -m drills.poison_request --json
    python -m drills.poison_request --target HOST:PORT,...    to a running service; no writes
    python -m drills.poison_request --plant crash     the negative control: a replica really ends

Hypothesis: each is refused with a clear status, or answered where it is legal; none ends a replica, none
hangs, the replicas' memory stays flat, and no decent caller's call fails.

No input is known that crashes a replica; this drill and the fuzz targets go on looking. Each request goes to
each replica several times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from drills.experiment import Experiment
from drills.failover import Rehearsal
from drills.oversized_payload import EMPTY, PER_S, Attack, attacked, on_service, shown
from drills.rehearsal import OnService, Rehearsable
from drills.rig.hostile import poison

NAME = "poison_request"
HYPOTHESIS = (
    "malformed and strange requests are refused or answered, none ends or fills a replica, and others are"
    " served"
)
CRASH = "crash"


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The strange requests as a value."""
    attack = Attack(poison(seed), PER_S, crash=given.plant == CRASH)
    return replace(attacked(NAME, HYPOTHESIS, given, attack), seed=seed)


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--plant", choices=(CRASH,), help="a fault that the judge must find")


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    shown=shown,
    runs_help="attacks",
    on_service=OnService("malformed", lambda seed, given: on_service(experiment(seed, given), given)),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
