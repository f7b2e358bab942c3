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
from drills.failover import Setup, check_replicas, setup_of
from drills.faults.process import STOP_IN_APPEND, StopInAppend
from drills.hang import LEASE, Hang, lease_option, limits_of, options_of
from drills.outcome import guarded, run_folder, tell

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
    options = options_of(NAME, HYPOTHESIS, protections=(LEASE,))
    lease_option(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        drill = Hang(
            NAME,
            HYPOTHESIS,
            StopInAppend,
            limits_of(given.lease_ttl_ms),
            lease_ttl_ms=given.lease_ttl_ms,
            without=given.without,
        )
        judgement, details = run(drill, setup_of(given, folder))
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
