"""Drill: the primary is killed and one of the standbys hangs, at once, under read and write load.

    python -m drills.double_fault --runs 5 --json
    python -m drills.double_fault --store postgresql
    python -m drills.double_fault --without spare    two replicas instead of three: must deviate

Hypothesis: reads go on, writes are back within 1.5 s (median over the runs), nothing is lost or doubled: the
one replica that is left does both alone, until the killed one is started and the stopped one woken.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from drills import hang
from drills.failover import check_replicas, setup_of
from drills.faults.process import KillPrimaryStopStandby
from drills.hang import Hang, options_of
from drills.judges.checks import FailoverLimits
from drills.outcome import guarded, positive, run_folder, tell

NAME = "double_fault"
HYPOTHESIS = "reads go on, writes are back within 1.5 s (median), no acknowledged write is lost or doubled"
EMPTY = hang.EMPTY
SPARE = "spare"
"""The protection: a third replica."""

RTO_MS = 1500.0
DURING_S = 3.0


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = options_of(NAME, HYPOTHESIS, protections=(SPARE,))
    options.add_argument("--rto-ms", type=positive(float), default=RTO_MS, help="median to hold")
    given = options.parse_args(list(arguments))
    if given.without == SPARE:
        given.replicas = 2
    elif given.replicas < 3:
        options.error("--replicas must be 3 or more: two go, and somebody must be left")
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        drill = Hang(
            NAME,
            HYPOTHESIS,
            KillPrimaryStopStandby,
            FailoverLimits(rto_ms=given.rto_ms),
            without=given.without,
            during_s=DURING_S,
        )
        judgement, details = hang.run(drill, setup_of(given, folder))
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
