"""Drill: texts that mark shoppers are sent everywhere a caller can put one, and looked for everywhere
afterwards.

    python -m drills.data_leak --json --journal DIR
    python -m drills.data_leak --without scrub       the control: must deviate

Marked names of shoppers and visits, e-mail addresses, telephone and card numbers, identity numbers and
tokens go into searches, into metadata, into feedback and its comments, and into what must be refused. Then
feedback and a backup are exported, and every file of the data folder, the logs, the metrics, the answers
and refusals, the exports and the journal are searched for each text: as it is, and in base64, hex, JSON
and address form.

Hypothesis: none is found; no read fails and no acknowledged write is lost meanwhile.
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
from drills.faults.canaries import Canaries, fresh_seed, look
from drills.journal import Journal
from drills.judges.leak import LEAK_FIGURES, judge_leaks
from drills.rehearsal import Changes, Rehearsable

NAME = "data_leak"
HYPOTHESIS = (
    "of marked names, addresses, numbers and tokens in requests, metadata and feedback none is in any file,"
    " log, metric, refusal or export afterwards, in whatever form"
)
EMPTY: dict[str, Any] = {"runs": 0, **LEAK_FIGURES}


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The canaries as a value."""
    canaries = Canaries(fresh_seed())

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        failover.collect_log(rehearsal, journal)
        look(rehearsal, journal, canaries)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=1.0),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=canaries,
        judge=judge_leaks,
        collect=collect,
    )


def changes(given: argparse.Namespace) -> Changes:
    """With metrics, everything logged, and a lease that a busy machine does not end."""
    return Changes(
        settings={
            "lease": {"ttl_ms": 5000},
            "metrics": {"listen": "127.0.0.1:0"},
            "log": {"level": "debug"},
        }
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['leaks']} finds of {figures['canaries']} canaries in {figures['files']} files and answers "
        f"({figures['searched_mib']} MiB), {figures['recorded']} events of feedback recorded"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=lambda options: None,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("scrub",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
