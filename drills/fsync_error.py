"""Drill: the primary's disk fails to sync.

    python -m drills.fsync_error --json --journal DIR
    python -m drills.fsync_error --without exit       the control: must deviate

Every fsync and fdatasync of the primary ends with EIO, from some moment under load on; those of the standbys
do not.

Hypothesis: the primary ends by itself, with exit code 74, and acknowledges nothing that was sent to it after
its syncs had begun to fail; a standby takes over; no read fails, no acknowledged write is lost or doubled.
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
from drills.faults.disk import FailingSync, strace_need
from drills.journal import Journal
from drills.judges.disk import FSYNC_ERROR_FIGURES, FsyncErrorLimits, judge_fsync_error
from drills.rehearsal import Changes, Rehearsable

NAME = "fsync_error"
HYPOTHESIS = (
    "a primary whose fsync fails ends by itself and acknowledges nothing more, a standby takes over, no read "
    "fails, no acknowledged write is lost"
)
EMPTY: dict[str, Any] = {"runs": 0, **FSYNC_ERROR_FIGURES}
LEASE_MS = 2000


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The failing sync as a value."""
    fault = FailingSync()

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        journal.write("tampered", calls=fault.failed())
        journal.write("exit", replica=fault.victim, code=fault.exit_code)
        collect_log(rehearsal, journal)

    base = failover.experiment(seed=seed, bundle=given.bundle)
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=fault,
        judge=lambda history: judge_fsync_error(history, FsyncErrorLimits()),
        collect=collect,
        needs=(*base.needs, strace_need()),
    )


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a busy machine does not end; a sync is due within a third of it."""
    return Changes(settings={"lease": {"ttl_ms": LEASE_MS}}, noted={"lease_ms": LEASE_MS})


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    ended = "ended by itself" if figures["ended_by_itself"] else "did not end by itself"
    return in_words(f"the primary {ended}", ("writes back", figures["rto_ms"]))


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=lambda options: None,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("exit",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
