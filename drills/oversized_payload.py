"""Drill: requests over every limit, again and again, beside the load of decent callers.

    python -m drills.oversized_payload --json
    python -m drills.oversized_payload --target HOST:PORT,...    to a running service; no writes
    python -m drills.oversized_payload --without limit     the negative control: larger messages are accepted

Hypothesis: each is refused with the status that the contract names, soon; the replicas' memory stays flat, no
process ends, and no decent caller's call fails.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, Probe
from drills.failover import (
    Rehearsal,
    all_serve_reads,
    client_streams,
    one_primary,
    reads_are_answered,
    writes_are_acknowledged,
)
from drills.faults.process import one_standby, sole_primary
from drills.journal import History, Journal
from drills.judges.hostile import HostileLimits, judge_hostile
from drills.partition import collect
from drills.rehearsal import Changes, OnService, Rehearsable, read_load
from drills.rig.hostile import Hostile, HostileCalls, oversized
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.traffic import MemoryWatch, ProcessWatch, RecordedLoad

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

    requests: made for a seed. per_s: how many of them. replicas_max: that get them; None: all. crash: kill a
    standby in the middle, as a request that crashes it would; a judge must find it.
    """

    requests: Sequence[Hostile]
    per_s: float
    crash: bool = False
    replicas_max: int | None = None
    name: str = "attack"
    loop: OpenLoop | None = None
    _timer: threading.Timer | None = field(default=None)

    def addresses(self, rehearsal: Rehearsal) -> dict[str, str]:
        """Of the replicas that get them, by name."""
        replicas = rehearsal.cluster.replicas[: self.replicas_max]
        return {replica.name: replica.address for replica in replicas}

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Begins. Raises Inconclusive where there is no single primary."""
        cluster = rehearsal.cluster
        primary = sole_primary(cluster)
        calls = HostileCalls(
            self.addresses(rehearsal),
            self.requests,
            lambda: primary.name,
        )
        self.loop = OpenLoop([Stream("hostile", even_arrivals(self.per_s), calls)])
        self.loop.start()
        if self.crash:
            self._timer = threading.Timer(DURATION_S / 2, cluster.kill, [one_standby(cluster)])
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


def attacked(name: str, hypothesis: str, given: argparse.Namespace, attack: Attack) -> Experiment[Rehearsal]:
    """One attack as a value."""
    everywhere = frozenset({"before", "during", "after"})

    def collected(rehearsal: Rehearsal, journal: Journal) -> None:
        attack.record(journal)
        collect(rehearsal, journal)

    def judge(history: History) -> Judgement:
        return judge_hostile(history, HostileLimits())

    return replace(
        failover.experiment(seed=given.seed, bundle=given.bundle, store=given.store),
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


def shown(judgement: Judgement) -> str:
    """One attack in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['hostile']} hostile requests of {figures['kinds']} kinds, {figures['unexpected']} "
        f"ended otherwise than they may, memory grew by {figures['growth_mib']} MiB, "
        f"{figures['crashed']} crashed"
    )


def changes(given: argparse.Namespace) -> Changes:
    """Larger messages, where the limit is taken away."""
    wide = {"rpc": {"request_bytes_max": WIDE_BYTES}}
    return Changes(settings=wide if given.without == LIMIT else {})


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The requests over every limit as a value."""
    return replace(attacked(NAME, HYPOTHESIS, given, Attack(oversized(), PER_S)), seed=seed)


def on_service(whole: Experiment[Rehearsal], given: argparse.Namespace) -> Experiment[Rehearsal]:
    """An attack as a value against a running service: none of the requests writes, and the replicas' memory
    is not known, but their processes are."""
    attack = whole.fault
    assert isinstance(attack, Attack)
    harmless = [one for one in attack.requests if not one.writes]
    reading = Attack(harmless, min(attack.per_s, given.rate_per_s), replicas_max=given.harmed)

    def collected(rehearsal: Rehearsal, journal: Journal) -> None:
        reading.record(journal)
        collect(rehearsal, journal)

    return replace(
        whole,
        load=served_load,
        fault=reading,
        collect=collected,
        judge=lambda history: judge_hostile(history, HostileLimits(growth_mib=None, written=False)),
        probes=tuple(probe for probe in whole.probes if probe.name != "writes are acknowledged"),
    )


def served_load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """Searches, and which processes serve."""
    cluster = rehearsal.cluster
    watch = ProcessWatch(lambda: {one.name: cluster.status(one).pid for one in cluster.replicas}, journal)
    return read_load(rehearsal, journal, seed, watch)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(LIMIT,),
    runs_help="attacks",
    on_service=OnService("malformed", lambda seed, given: on_service(experiment(seed, given), given)),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
