"""Drill: the store goes away under load, and comes back.

    python -m drills.store_down --json                      another process locks the SQLite file
    python -m drills.store_down --store postgresql --json   the server is frozen, then it is killed
    python -m drills.store_down --without deadline          the negative control: writes wait for the store

Hypothesis: no read fails, and every replica serves all the while; answers say how long the log has not been
seen; each write ends within its deadline, acknowledged or not; once the store is back, writes are within 5 s,
without anybody's help, and nothing acknowledged is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Fault, Judgement, Probe
from drills.failover import (
    POSTGRESQL,
    Rehearsal,
    Rehearsed,
    Setup,
    all_serve_reads,
    check_replicas,
    each_run,
    load_options,
    one_primary,
    reads_are_answered,
    rehearse_on_cluster,
    setup_of,
    writes_are_acknowledged,
)
from drills.faults.store import FREEZE, KILL, FileLocked, ServerDown
from drills.journal import History
from drills.judges.network import StoreLimits, judge_store_down, over_kinds, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.partition import collect, watched_load
from drills.rig.cluster import ClusterPlan

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


def experiment(
    fault: Fault[Any], *, seed: int, plan: ClusterPlan, store: str, limits: StoreLimits
) -> Experiment[Rehearsal]:
    """One outage as a value."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})

    def judge(history: History) -> Judgement:
        return judge_store_down(history, limits)

    return replace(
        failover.experiment(seed=seed, bundle=plan.bundle, store=store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=watched_load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, around),
            Probe("there is one primary", one_primary, around),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=fault,
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=6.0,
        after_s=limits.back_ms / 1000.0 + 2.0,
    )


def outages(store: str) -> dict[str, Callable[[], Fault[Any]]]:
    """What can happen to this kind of store, by name; each is made anew for each run."""
    if store == POSTGRESQL:
        return {how: lambda how=how: ServerDown(how) for how in (FREEZE, KILL)}  # type: ignore[misc]
    return {FileLocked.name: FileLocked}


def run(setup: Setup, kind: str, limits: StoreLimits) -> tuple[Judgement, dict[str, Any]]:
    """All outages of one kind on a fresh cluster; the judgement over them, and the details for the record."""
    plan, store = setup["plan"], setup.get("store", failover.SQLITE)
    make = outages(store)[kind]

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        return (
            f"{kind}: writes back after {figures['back_ms']} ms, {figures['marked_stale']} answers marked "
            f"stale, {figures['read_errors']} of {figures['reads']} reads failed"
        )

    drill = Rehearsed(
        NAME, lambda seed: experiment(make(), seed=seed, plan=plan, store=store, limits=limits), shown
    )
    outcomes, settings = rehearse_on_cluster(drill, setup)
    return over_runs([one for one, _ in outcomes]), {**settings, "each": each_run(outcomes)}


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="outages of each kind")
    options.add_argument("--without", choices=(DEADLINE,), help="let writes wait for as long as they like")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        setup = setup_of(given, folder)
        deadline_ms = PATIENT_MS if given.without == DEADLINE else WRITE_DEADLINE_MS
        setup["traffic"] = replace(setup["traffic"], write_deadline_ms=deadline_ms)
        judgements, details = [], {}
        for kind in outages(given.store):
            setup["folder"] = folder / kind
            judgement, details[kind] = run(setup, kind, StoreLimits(write_ms=WRITE_DEADLINE_MS))
            judgements.append(judgement)
        return tell(NAME, over_kinds(judgements), as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
