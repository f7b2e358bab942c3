"""Drill: a standby hangs (SIGSTOP) under read and write load, and is woken later.

    python -m drills.standby_hang --runs 3 --json
    python -m drills.standby_hang --store postgresql
    python -m drills.standby_hang --without detection    the client asks once, and pings nobody: must deviate

Hypothesis: no read fails, and of the reads that are due while the standby is stopped 99 in 100 are answered
within 100 ms: a read that it is silent on is sent to another replica after some 20 ms, and soon it is asked
last.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    check_replicas,
    each_run,
    rehearse_on_cluster,
    setup_of,
)
from drills.faults.process import StopStandby
from drills.hang import options_of
from drills.judges.hang import StandbyHangLimits, judge_standby_hang, judge_standby_hang_runs
from drills.outcome import guarded, positive, run_folder, tell
from drills.partition import DETECTION
from drills.partition import without as traffic_without

NAME = "standby_hang"
HYPOTHESIS = "no read fails, and 99 of 100 reads are answered within 100 ms beside a standby that hangs"
EMPTY: dict[str, Any] = {
    "runs": 0,
    "reads": 0,
    "read_errors": 0,
    "reads_during": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "read_p99_ms": None,
    "slowest_read_ms": None,
    "base_read_p99_ms": None,
    "epochs_monotone": True,
}
DURING_S = 5.0


def experiment(
    seed: int, bundle: Path | None, store: str, limits: StandbyHangLimits
) -> Experiment[Rehearsal]:
    """One run as a value: the failover's load and steady state under another fault."""
    return replace(
        failover.experiment(seed=seed, bundle=bundle, during_s=DURING_S, store=store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=StopStandby(),
        judge=lambda history: judge_standby_hang(history, limits),
        before_s=3.0,
    )


def run(
    setup: Setup, limits: StandbyHangLimits, *, without: str | None = None
) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; returns the judgement over all runs and the details for the
    record."""
    bundle, store = setup["plan"].bundle, setup.get("store", failover.SQLITE)
    setup["traffic"] = traffic_without(setup["traffic"], without)
    drill = Rehearsed(NAME, lambda seed: experiment(seed, bundle, store, limits), _shown)
    outcomes, settings = rehearse_on_cluster(drill, setup)
    judgement = judge_standby_hang_runs([one for one, _ in outcomes])
    figures = {"runs": len(outcomes), **judgement.figures}
    details = {
        **settings,
        "without": without,
        "read_p99_limit_ms": limits.read_p99_ms,
        "each": each_run(outcomes),
    }
    return Judgement(judgement.verdict, figures, judgement.reasons), details


def _shown(judgement: Judgement) -> str:
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['read_errors']} of {figures['reads']} reads failed, 99th percentile "
        f"{figures['read_p99_ms']} ms"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = options_of(NAME, HYPOTHESIS, protections=(DETECTION,))
    options.add_argument(
        "--read-p99-ms", type=positive(float), default=StandbyHangLimits.read_p99_ms, help="to hold"
    )
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        limits = StandbyHangLimits(read_p99_ms=given.read_p99_ms)
        judgement, details = run(setup_of(given, folder), limits, without=given.without)
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
