"""Drill: the store goes away under load, and comes back.

    python -m drills.store_down --json                      another process locks the SQLite file
    python -m drills.store_down --store postgresql --json   the server is frozen, then it is killed
    python -m drills.store_down --without deadline          the negative control: writes wait for the store

Hypothesis: no read fails, and every replica serves all the while; answers say how long the log has not been
seen; each write ends within its deadline, acknowledged or not; once the store is back, writes are within 5 s,
without anybody's help, and nothing acknowledged is lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, Probe, in_words
from drills.failover import (
    POSTGRESQL,
    Rehearsal,
    all_serve_reads,
    one_primary,
    reads_are_answered,
    writes_are_acknowledged,
)
from drills.faults.store import FREEZE, KILL, FileLocked, ServerDown
from drills.journal import History
from drills.judges.network import StoreLimits, judge_store_down
from drills.partition import collect, watched_load
from drills.rehearsal import Changes, Rehearsable

NAME = "store_down"
HYPOTHESIS = (
    "no read fails, answers say how stale they are, writes end within their deadline, and all heals by itself"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "back_ms": None,
    "slowest_write_ms": None,
    "overdue_writes": 0,
    "marked_stale": 0,
    "reads": 0,
    "read_errors": 0,
    "replica_reads": 0,
    "replica_read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
WRITE_DEADLINE_MS = 1000.0
"""Well below the time that the store is away."""

DEADLINE = "deadline"
PATIENT_MS = 30_000.0


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One outage as a value. given.part: one of `outages`."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    limits = StoreLimits(write_ms=WRITE_DEADLINE_MS)

    def judge(history: History) -> Judgement:
        return judge_store_down(history, limits)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=watched_load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, around),
            Probe("there is one primary", one_primary, around),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=FileLocked() if given.part == FileLocked.name else ServerDown(given.part),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=6.0,
        after_s=limits.back_ms / 1000.0 + 2.0,
    )


def outages(given: argparse.Namespace) -> tuple[str, ...]:
    """What can happen to the store that was asked for."""
    return (FREEZE, KILL) if given.store == POSTGRESQL else (FileLocked.name,)


def changes(given: argparse.Namespace) -> Changes:
    """How long a write may take."""
    return Changes(write_deadline_ms=PATIENT_MS if given.without == DEADLINE else WRITE_DEADLINE_MS)


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        ("writes back", figures["back_ms"]),
        f"{figures['marked_stale']} answers marked stale",
        f"{figures['read_errors']} of {figures['reads']} reads failed",
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(DEADLINE,),
    runs_help="outages of each kind",
    parts=outages,
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
