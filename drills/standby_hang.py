"""Drill: a standby hangs (SIGSTOP) under read and write load, and is woken later.

    python -m drills.standby_hang --runs 3 --json
    python -m drills.standby_hang --store postgresql
    python -m drills.standby_hang --without detection    the client asks once, and pings nobody: must deviate

Hypothesis: no read fails, and of the reads that are due while the standby is stopped 99 in 100 are answered
within 100 ms: a read that it is silent on is sent to another replica after some 20 ms, and soon it is asked
last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal, Traffic
from drills.faults.process import StopStandby
from drills.judges.hang import StandbyHangLimits, judge_standby_hang
from drills.outcome import positive
from drills.partition import DETECTION, without
from drills.rehearsal import Changes, Rehearsable

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


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One run as a value: the failover's load and steady state under another fault."""
    limits = StandbyHangLimits(read_p99_ms=given.read_p99_ms)
    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=DURING_S, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=StopStandby(),
        judge=lambda history: judge_standby_hang(history, limits),
        before_s=3.0,
    )


def changes(given: argparse.Namespace) -> Changes:
    """The client without what it detects a silent standby by."""
    return Changes(
        client=without(Traffic(), given.without).client, noted={"read_p99_limit_ms": given.read_p99_ms}
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['read_errors']} of {figures['reads']} reads failed, 99th percentile "
        f"{figures['read_p99_ms']} ms"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument(
        "--read-p99-ms", type=positive(float), default=StandbyHangLimits.read_p99_ms, help="to hold"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(DETECTION,),
    runs=5,
    runs_help="how often it is done",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
