"""Drill: files of models and indexes are damaged.

    python -m drills.corrupt_bundle --json --journal DIR
    python -m drills.corrupt_bundle --without checksums       the control: must deviate

One after the other, under load: a bundle about to be deployed, with a flipped bit or a missing end in its
largest model or in its manifest; a generation about to be served, the same in its lexical index, its vectors
or its manifest; and a standby that is started with a damaged bundle, and with a damaged newest generation.

Hypothesis: each damage is refused by name, and what served before serves on; a replica that is given a
damaged bundle to start with ends with code 2 while the others serve, one that finds a damaged generation
serves the one before; no read fails, no acknowledged write is lost.
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
from drills.faults.damage import DamagedFiles
from drills.judges.damage import DAMAGE_FIGURES, DamageLimits, judge_corrupt_bundle
from drills.rehearsal import Changes, Rehearsable

NAME = "corrupt_bundle"
HYPOTHESIS = (
    "damaged bundles and generations are refused by name and the last good ones serve on; no read fails"
)
EMPTY: dict[str, Any] = {"runs": 0, **DAMAGE_FIGURES}


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The damages as a value."""
    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=1.0),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=DamagedFiles(),
        judge=lambda history: judge_corrupt_bundle(history, DamageLimits()),
    )


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a busy machine does not end: a change of primary is another drill's."""
    return Changes(settings={"lease": {"ttl_ms": 5000}})


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['candidates_refused']} candidates, {figures['generations_refused']} generations and "
        f"{figures['starts_refused']} starts refused, {figures['taken']} damages taken, "
        f"{figures['read_errors']} of {figures['reads']} reads failed"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=lambda options: None,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("checksums",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
