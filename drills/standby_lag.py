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

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, Probe
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    all_serve_reads,
    check_replicas,
    client_streams,
    each_run,
    load_options,
    one_primary,
    reads_are_answered,
    rehearse_on_cluster,
    setup_of,
    writes_are_acknowledged,
)
from drills.faults.tail import DELIVER, LOOK, PLACES, FreezeTailer, freezable
from drills.journal import History, Journal
from drills.judges.network import LagLimits, judge_standby_lag, over_kinds, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.partition import collect
from drills.rig.cluster import ClusterPlan
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
LOOKS_PER_S = 10.0
SESSION_LOOKS_PER_S = 2.0
"""At each replica, past the client; few, for they only look."""

SESSION_LOOK_MS = 300.0


def staleness_max_ms(plan: ClusterPlan) -> float:
    """The bound of the replicas of this plan."""
    return float(plan.settings.get("catalogue", {}).get("staleness_max_ms", STALENESS_MAX_MS))


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


def experiment(
    *, seed: int, plan: ClusterPlan, place: str, folder: Path, store: str, bound_ms: float
) -> Experiment[Rehearsal]:
    """One freeze as a value. place: LOOK or DELIVER. bound_ms: on staleness, as it is judged."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})

    def judge(history: History) -> Judgement:
        return judge_standby_lag(history, LagLimits(bound_ms=bound_ms))

    return replace(
        failover.experiment(seed=seed, bundle=plan.bundle, store=store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, everywhere),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, around),
        ),
        fault=FreezeTailer(place, folder),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=bound_ms / 1000.0 + 2.0,
        after_s=3.0,
    )


def run(setup: Setup, place: str, bound_ms: float) -> tuple[Judgement, dict[str, Any]]:
    """All freezes at one place on a fresh cluster; the judgement over them, and the details for the
    record."""
    folder = setup["folder"] / "freeze"
    setup = setup.copy()
    setup["plan"] = freezable(setup["plan"], folder)
    plan, store = setup["plan"], setup.get("store", failover.SQLITE)

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        return (
            f"frozen before {place}: left health after {figures['left_health_ms']} ms, back after "
            f"{figures['back_ms']} ms, {figures['read_errors']} of {figures['reads']} reads failed"
        )

    drill = Rehearsed(
        NAME,
        lambda seed: experiment(
            seed=seed, plan=plan, place=place, folder=folder, store=store, bound_ms=bound_ms
        ),
        shown,
    )
    outcomes, settings = rehearse_on_cluster(drill, setup)
    return over_runs([one for one, _ in outcomes]), {**settings, "each": each_run(outcomes)}


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="freezes at each place")
    options.add_argument("--without", choices=(BOUND,), help="switch this protection of the replicas off")
    options.add_argument("--place", choices=PLACES, help="freeze it there only")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        setup = setup_of(given, folder)
        bound_ms = staleness_max_ms(setup["plan"])
        if given.without == BOUND:
            setup["plan"] = replace(setup["plan"], settings={"catalogue": {"staleness_max_ms": 3_600_000}})
        judgements, details = [], {}
        for place in (given.place,) if given.place else (LOOK, DELIVER):
            setup["folder"] = folder / place
            judgement, details[place] = run(setup, place, bound_ms)
            judgements.append(judgement)
        return tell(NAME, over_kinds(judgements), as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
