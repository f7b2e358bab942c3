"""Drill: a standby stops following the log, under read and write load, while all else of it goes on.

    python -m drills.standby_lag --json
    python -m drills.standby_lag --without bound       the negative control: it may be behind without end

Hypothesis: once it has not followed for as long as the bound on staleness (`catalogue.staleness_max_ms`), it
leaves health within 500 ms, and it comes back within 2 s of following again; no read fails, no answer hides
how stale it is, and a read that must see a sequence is never answered without it.

Its tailer is frozen twice: before it looks at the log, where it cannot know that it is behind, and before it
applies what it has read, where it does know.
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
    Rehearsal,
    all_serve_reads,
    client_streams,
    one_primary,
    reads_are_answered,
    writes_are_acknowledged,
)
from drills.faults.tail import DELIVER, LOOK, PLACES, FreezeTailer, freezable
from drills.journal import History, Journal
from drills.judges.network import LagLimits, judge_standby_lag
from drills.partition import collect
from drills.rehearsal import Changes, Rehearsable
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.traffic import ConnectionWatch, RecordedLoad, ReplicaReads
from muster.client import ClientSettings, Session

NAME = "standby_lag"
HYPOTHESIS = (
    "a standby that stops following leaves health past the bound on staleness and comes back by itself, no"
    " read fails, and none is staler than it says"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "left_health_ms": None,
    "back_ms": None,
    "session_reads": 0,
    "stale_session_reads": 0,
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
STALENESS_MAX_MS = 2000
"""Of a replica whose settings name none."""

BOUND = "bound"
FREEZE = "freeze"
"""The folder that freezes tailers, in that of the record."""

LOOKS_PER_S = 10.0
SESSION_LOOKS_PER_S = 2.0
"""At each replica, past the client; few, for they only look."""

SESSION_LOOK_MS = 300.0


def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """The reads and writes of the failover; at each replica past the client, searches that may be stale and
    such that must see all that has been written; and which replicas the client takes for healthy."""
    session = Session(monotonic_reads=True)
    direct = {replica.name: replica.address for replica in rehearsal.cluster.replicas}
    plain = ReplicaReads(direct, rehearsal.queries, deadline_ms=1000.0)
    bound = ReplicaReads(
        direct, rehearsal.queries, deadline_ms=SESSION_LOOK_MS, wanted=lambda: session.sequence
    )
    streams = (
        *client_streams(rehearsal, seed, session),
        Stream("replica_read", even_arrivals(LOOKS_PER_S * len(direct)), plain),
        Stream("session_read", even_arrivals(SESSION_LOOKS_PER_S * len(direct)), bound),
    )
    watch = ConnectionWatch(direct, rehearsal.traffic.client or ClientSettings(), journal)
    rehearsal.load = RecordedLoad(OpenLoop(streams), journal, [watch])
    return rehearsal.load


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One freeze as a value. given.part: LOOK or DELIVER."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    # As it is judged, whatever the replicas are told.
    bound_ms = float(STALENESS_MAX_MS)

    def judge(history: History) -> Judgement:
        return judge_standby_lag(history, LagLimits(bound_ms=bound_ms))

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, everywhere),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, around),
        ),
        fault=FreezeTailer(given.part, given.folder / FREEZE),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=bound_ms / 1000.0 + 2.0,
        after_s=3.0,
    )


def changes(given: argparse.Namespace) -> Changes:
    """Replicas whose tailers can be frozen, with a bound on staleness or hardly any."""
    return Changes(
        settings={"catalogue": {"staleness_max_ms": 3_600_000}} if given.without == BOUND else {},
        plan=lambda plan: freezable(plan, given.folder / FREEZE),
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        ("left health", figures["left_health_ms"]),
        ("back", figures["back_ms"]),
        f"{figures['read_errors']} of {figures['reads']} reads failed",
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--place", choices=PLACES, help="freeze it there only")


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(BOUND,),
    runs_help="freezes at each place",
    parts=lambda given: (given.place,) if given.place else (LOOK, DELIVER),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
