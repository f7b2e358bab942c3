"""Drill: malformed and strange requests, again and again, beside the load of decent callers.

    python -m drills.poison_request --json
    python -m drills.poison_request --plant crash     the negative control: a replica really ends

Hypothesis: each is refused with a clear status, or answered where it is legal; none ends a replica, none
hangs, the replicas' memory stays flat, and no decent caller's call fails.

No input is known that crashes a replica; this drill and the fuzz targets go on looking. Each request goes to
each replica several times.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from drills.failover import check_replicas, load_options, setup_of
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.oversized_payload import EMPTY, experiment, run
from drills.rig.hostile import poison

NAME = "poison_request"
HYPOTHESIS = (
    "malformed and strange requests are refused or answered, none ends or fills a replica, and others are"
    " served"
)
CRASH = "crash"


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="attacks")
    options.add_argument("--plant", choices=(CRASH,), help="a fault that the judge must find")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        setup = setup_of(given, folder)
        judgement, details = run(
            setup,
            NAME,
            lambda seed: experiment(
                poison(seed),
                name=NAME,
                hypothesis=HYPOTHESIS,
                seed=seed,
                setup=setup,
                crash=given.plant == CRASH,
            ),
        )
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
