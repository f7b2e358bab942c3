"""Drill: requests over every limit, again and again, beside the load of decent callers.

    python -m drills.oversized_payload --json
    python -m drills.oversized_payload --without limit     the negative control: larger messages are accepted

Hypothesis: each is refused with the status that the contract names, soon; the replicas' memory stays flat, no
process ends, and no decent caller's call fails.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from drills.faults.process import sole_primary
from drills.journal import History, Journal
from drills.judges.hostile import HostileLimits, judge_hostile
from drills.judges.network import over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.partition import collect
from drills.rig.hostile import Hostile, HostileCalls, oversized
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.traffic import MemoryWatch, RecordedLoad

NAME = "oversized_payload"
HYPOTHESIS = (
    "what is over a limit is refused soon and with the right status, memory stays flat, nothing ends, and"
    " others are served"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "hostile": 0,
    "kinds": 0,
    "refused": 0,
    "unexpected": 0,
    "refused_p99_ms": None,
    "growth_mib": None,
    "crashed": 0,
    "reads": 0,
    "read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
PER_S = 10.0
"""Few, for large messages take time from the load's own interpreter."""

DURATION_S = 15.0
LIMIT = "limit"
WIDE_BYTES = 64 * 1024 * 1024


@dataclass
class Attack:
    """Hostile requests, until it is undone. For one run.

    requests: made for a seed. per_s: how many of them. crash: kill a standby in the middle, as a request that
    crashes it would; a judge must find it.
    """

    requests: Sequence[Hostile]
    per_s: float
    crash: bool = False
    name: str = "attack"
    loop: OpenLoop | None = None
    _timer: threading.Timer | None = field(default=None)

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Begins. Raises Inconclusive where there is no single primary."""
        cluster = rehearsal.cluster
        primary = sole_primary(cluster)
        calls = HostileCalls(
            {replica.name: replica.address for replica in cluster.replicas},
            self.requests,
            lambda: primary.name,
        )
        self.loop = OpenLoop([Stream("hostile", even_arrivals(self.per_s), calls)])
        self.loop.start()
        if self.crash:
            standby = next(one for one in cluster.replicas if one is not primary)
            self._timer = threading.Timer(DURATION_S / 2, cluster.kill, [standby])
            self._timer.start()
        return {"replica": primary.name, "requests": len(self.requests), "per_s": self.per_s}

    def rollback(self, rehearsal: Rehearsal) -> None:
        """Ends it, and starts what it ended."""
        if self.loop is not None:
            self.loop.stop()
        if self._timer is not None:
            self._timer.join()
        for replica in rehearsal.cluster.replicas:
            rehearsal.cluster.restart(replica)

    def record(self, journal: Journal) -> None:
        """Writes what became of the requests into the history."""
        if self.loop is not None:
            journal.extend(sample.record(journal.start_s) for sample in self.loop.samples)


def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """The reads and writes of the failover, and the replicas' memory."""
    replicas = rehearsal.cluster.replicas
    watch = MemoryWatch(lambda: {replica.name: replica.pid for replica in replicas}, journal)
    rehearsal.load = RecordedLoad(OpenLoop(client_streams(rehearsal, seed)), journal, [watch])
    return rehearsal.load


def experiment(
    requests: Sequence[Hostile],
    *,
    name: str,
    hypothesis: str,
    seed: int,
    setup: Setup,
    crash: bool = False,
) -> Experiment[Rehearsal]:
    """One attack as a value."""
    everywhere = frozenset({"before", "during", "after"})
    attack = Attack(requests, PER_S, crash)

    def collected(rehearsal: Rehearsal, journal: Journal) -> None:
        attack.record(journal)
        collect(rehearsal, journal)

    def judge(history: History) -> Judgement:
        return judge_hostile(history, HostileLimits())

    return replace(
        failover.experiment(
            seed=seed, bundle=setup["plan"].bundle, store=setup.get("store", failover.SQLITE)
        ),
        name=name,
        hypothesis=hypothesis,
        load=load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, everywhere),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=attack,
        judge=judge,
        collect=collected,
        before_s=2.0,
        during_s=DURATION_S,
        after_s=2.0,
    )


def run(
    setup: Setup, name: str, attack: Callable[[int], Experiment[Rehearsal]]
) -> tuple[Judgement, dict[str, Any]]:
    """All attacks on a fresh cluster; the judgement over them, and the details for the record."""

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        return (
            f"{figures['hostile']} hostile requests of {figures['kinds']} kinds, {figures['unexpected']} "
            f"ended otherwise than they may, memory grew by {figures['growth_mib']} MiB, "
            f"{figures['crashed']} crashed"
        )

    outcomes, settings = rehearse_on_cluster(Rehearsed(name, attack, shown), setup)
    return over_runs([one for one, _ in outcomes]), {**settings, "each": each_run(outcomes)}


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="attacks")
    options.add_argument("--without", choices=(LIMIT,), help="let the replicas accept larger messages")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        setup = setup_of(given, folder)
        if given.without == LIMIT:
            setup["plan"] = replace(setup["plan"], settings={"rpc": {"request_bytes_max": WIDE_BYTES}})
        requests = oversized()
        judgement, details = run(
            setup,
            NAME,
            lambda seed: experiment(requests, name=NAME, hypothesis=HYPOTHESIS, seed=seed, setup=setup),
        )
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
