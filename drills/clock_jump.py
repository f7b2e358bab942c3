"""Drill: a wall clock jumps by an hour, forwards and back: that of callers, of the primary, of a standby.

    python -m drills.clock_jump --json                     needs root and libfaketime
    python -m drills.clock_jump --whose callers --json     needs root alone
    python -m drills.clock_jump --plant lease              the negative control: the lease does change hands

Hypothesis: no request fails for it, none runs past its deadline, the lease stays where it is, and nothing
acknowledged is lost.

Callers tell a replica their deadline as a duration (gRPC's) and by their own clock
(`muster-deadline-unix-us`). On one machine both clocks are one, so the drill gives its replicas an address
that is not loopback's, inside a network namespace that nothing leads out of: as on two machines, a replica
then has to find out how far the clocks are apart. Connections are replaced now and then, so that it has seen
few calls of some.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Fault, Judgement, Need, Probe
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
    rehearse_on_cluster,
    setup_of,
    writes_are_acknowledged,
)
from drills.faults.clock import (
    PRIMARY,
    STANDBY,
    MoveCallersClock,
    MoveClock,
    find_library,
    library_need,
    movable,
)
from drills.faults.process import KillPrimary
from drills.journal import History, Journal
from drills.judges.clock import ClockLimits, judge_clock_jump
from drills.judges.network import over_kinds, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.partition import collect
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.namespace import add_address, enter
from drills.rig.traffic import RecordedLoad, SkewedReads

NAME = "clock_jump"
HYPOTHESIS = (
    "when a wall clock jumps by an hour no request fails or runs past its deadline, and the lease stays"
    " where it is"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "skewed_reads": 0,
    "skewed_errors": 0,
    "overrun_ms": None,
    "takeovers": 0,
    "reads": 0,
    "read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
CALLERS = "callers"
KINDS = (CALLERS, PRIMARY, STANDBY)
HOUR_S = 3600
SKEWED_PER_S = 20.0
DEADLINE_MS = 250.0
LEASE = "lease"


def experiment(
    whose: str, offset_s: int, *, seed: int, setup: Setup, folder: Path, library: Path | None, plant: bool
) -> Experiment[Rehearsal]:
    """One jump as a value. whose: one of KINDS. plant: kill the primary instead."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    callers = MoveCallersClock(offset_s)
    fault: Fault[Any] = callers if whose == CALLERS else MoveClock(whose, offset_s, folder)
    base = failover.experiment(
        seed=seed, bundle=setup["plan"].bundle, store=setup.get("store", failover.SQLITE)
    )
    needs: tuple[Need, ...] = () if whose == CALLERS else (library_need(library),)

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        addresses = {replica.name: replica.address for replica in rehearsal.cluster.replicas}
        skewed = SkewedReads(addresses, rehearsal.queries, deadline_ms=DEADLINE_MS, skew_s=callers.skew_s)
        streams = (
            *client_streams(rehearsal, seed),
            Stream("skewed_read", even_arrivals(SKEWED_PER_S * len(addresses)), skewed),
        )
        rehearsal.load = RecordedLoad(OpenLoop(streams), journal)
        return rehearsal.load

    def judge(history: History) -> Judgement:
        return judge_clock_jump(history, ClockLimits(deadline_ms=DEADLINE_MS))

    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("writes are acknowledged", writes_are_acknowledged, around),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=KillPrimary() if plant else fault,
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=4.0,
        after_s=3.0,
        needs=(*base.needs, *needs),
    )


def run(setup: Setup, whose: str, *, library: Path | None, plant: bool) -> tuple[Judgement, dict[str, Any]]:
    """A jump forwards and one back of one kind on a fresh cluster; the judgement over them, and the details
    for the record."""
    folder = setup["folder"] / "clocks"
    found = find_library(library)
    if whose != CALLERS and found is not None:
        setup = setup.copy()
        setup["plan"] = movable(setup["plan"], folder, found)

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        return (
            f"{whose}: {figures['read_errors']} of {figures['reads']} reads failed, "
            f"{figures['skewed_errors']} of {figures['skewed_reads']} at single replicas; "
            f"{figures['takeovers']} takeovers"
        )

    first = setup["seed"]
    drill = Rehearsed(
        NAME,
        lambda seed: experiment(
            whose,
            # Forwards and back in turn.
            -HOUR_S if (seed - first) % 2 else HOUR_S,
            seed=seed,
            setup=setup,
            folder=folder,
            library=library,
            plant=plant,
        ),
        shown,
    )
    outcomes, settings = rehearse_on_cluster(drill, setup)
    return over_runs([one for one, _ in outcomes]), {**settings, "each": each_run(outcomes)}


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=2, help="jumps of each clock, to and fro")
    options.add_argument("--whose", choices=KINDS, help="clock (default: each)")
    options.add_argument("--libfaketime", type=Path, metavar="FILE", help="where it is not installed")
    options.add_argument("--plant", choices=(LEASE,), help="a fault that the judge must find")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)

    def body() -> int:
        enter("drills.clock_jump", arguments, filters=False)
        folder = run_folder(given.journal, NAME)
        setup = setup_of(given, folder)
        setup["plan"] = replace(setup["plan"], host=add_address())
        judgements, details = [], {}
        for whose in (given.whose,) if given.whose else KINDS:
            setup["folder"] = folder / whose
            judgement, details[whose] = run(
                setup, whose, library=given.libfaketime, plant=given.plant == LEASE
            )
            judgements.append(judgement)
        return tell(NAME, over_kinds(judgements), as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
