"""Drill: the primary hangs inside a transaction of the log, between the INSERT and the COMMIT of an append.

    python -m drills.hang_in_transaction --runs 5 --json
    python -m drills.hang_in_transaction --store postgresql
    python -m drills.hang_in_transaction --without lease    must deviate

The hardest place to hang in: on SQLite the frozen process holds the write lock of the file, on PostgreSQL the
row of the lease, and nobody can take over before it lets go. Hypothesis: as of the drill `hang`. On SQLite
the holder is killed; on PostgreSQL its sessions are ended, by whoever takes over or by the server
(`idle_in_transaction_session_timeout`), and it wakes to find itself fenced.

The replicas stop themselves, at a place that only the environment which this drill gives them can arm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import hang
from drills.experiment import Judgement
from drills.failover import Setup
from drills.faults.process import STOP_IN_APPEND, StopInAppend
from drills.hang import Hang

NAME = "hang_in_transaction"
HYPOTHESIS = (
    "as hang: writes are back within the lease's life + 200 ms (median), no read fails, nothing is lost or"
    " doubled, though the primary stops between INSERT and COMMIT"
)
EMPTY = hang.EMPTY


def run(given: Hang, setup: Setup) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster of replicas that can be stopped there."""
    trigger = setup["folder"] / "stop-in-append"
    setup["plan"] = replace(setup["plan"], environment={STOP_IN_APPEND: str(trigger)})
    return hang.run(replace(given, fault=lambda: StopInAppend(trigger=trigger)), setup)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return hang.command(arguments, name=NAME, hypothesis=HYPOTHESIS, fault=StopInAppend, run=run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
