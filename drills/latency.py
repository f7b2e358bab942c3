"""Drill: the network between clients and replicas becomes slow, first to one replica, then to all.

    python -m drills.latency --json
    python -m drills.latency --target HOST:PORT,... to a running service: its primary, or --slowed all
    python -m drills.latency --latency-ms 60       the negative control: longer than the deadline allows

Hypothesis: with 20 ms more there and back, and jitter, at least 99 % of all searches are answered within
their 50 ms; the replicas know how much less time is left, answer with what fits it, and say so truthfully: an
answer that calls itself the best plan's is what the best plan gives when there is time.

There are no writes, so that answers can be compared with what the same queries give afterwards, unhurried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc

from drills import failover
from drills.experiment import Experiment, Judgement, Probe
from drills.failover import (
    Rehearsal,
    all_serve_reads,
    one_primary,
    reads_are_answered,
    to_replica,
)
from drills.faults.network import SlowLinks
from drills.journal import History, Journal
from drills.judges.latency import LatencyLimits, judge_latency
from drills.outcome import positive
from drills.rehearsal import Changes, OnService, Rehearsable
from drills.rig.load import OpenLoop, Stream, poisson_arrivals
from drills.rig.traffic import ClientReads, RecordedLoad
from muster.v1 import ranking_pb2, ranking_pb2_grpc

NAME = "latency"
HYPOTHESIS = (
    "with 20 ms more on the network at least 99 % of all searches are answered within their 50 ms, and say"
    " truthfully with which quality"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "in_time_share": None,
    "read_p99_ms": None,
    "base_read_p99_ms": None,
    "budget_lost_ms": None,
    "best_share": None,
    "untruthful": 0,
    "reads": 0,
    "read_errors": 0,
}
ONE = "one"
ALL = "all"
LATENCY_MS = 20.0
BEYOND_MS = 60.0
"""Longer than the deadline allows: the control."""

JITTER_MS = 4.0
DEADLINE_MS = 50.0
UNHURRIED_S = 5.0


def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """Searches through the client alone."""
    traffic = rehearsal.traffic
    reads = ClientReads(
        list(rehearsal.reached_at.values()),
        rehearsal.queries,
        deadline_ms=traffic.read_deadline_ms,
        settings=traffic.client,
        products=True,
    )
    loop = OpenLoop([Stream("read", poisson_arrivals(traffic.reads_per_s, seed), reads)])
    rehearsal.load = RecordedLoad(loop, journal)
    return rehearsal.load


def collect(rehearsal: Rehearsal, journal: Journal) -> None:
    """What every query gives when there is time, at the first replica; none where it does not answer."""
    cluster = rehearsal.cluster
    stub = ranking_pb2_grpc.RankingServiceStub(cluster.channel(cluster.replicas[0]))
    for query in dict.fromkeys(rehearsal.queries):
        try:
            answer = stub.Search(ranking_pb2.SearchRequest(query=query), timeout=UNHURRIED_S)
        except grpc.RpcError:
            continue
        journal.write("unhurried", query=query, product_ids=[one.product_id for one in answer.results])


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One slow spell as a value. given.part: ONE or ALL."""
    around = frozenset({"before", "after"})

    def judge(history: History) -> Judgement:
        return judge_latency(history, LatencyLimits(deadline_ms=given.deadline_ms))

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("reads are answered", reads_are_answered, frozenset({"before"})),
            Probe("there is one primary", one_primary, around),
            Probe("every replica serves reads", all_serve_reads, around),
        ),
        fault=SlowLinks(to_replica, given.latency_ms, given.jitter_ms, everyone=given.part == ALL),
        judge=judge,
        collect=collect,
        before_s=4.0,
        during_s=8.0,
        after_s=1.2,
    )


def changes(given: argparse.Namespace) -> Changes:
    """The proxy that is slow."""
    return Changes(proxied=True, noted={"latency_ms": given.latency_ms, "jitter_ms": given.jitter_ms})


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['in_time_share']} in time, p99 {figures['read_p99_ms']} ms, "
        f"{figures['best_share']} by the best plan"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--slowed", choices=(ONE, ALL), help="replicas (default: one, then all)")
    options.add_argument(
        "--latency-ms",
        type=positive(float),
        default=LATENCY_MS,
        help=f"there and back together (default: {LATENCY_MS:g}; with {BEYOND_MS:g} it must deviate)",
    )
    options.add_argument("--jitter-ms", type=positive(float), default=JITTER_MS, help="up to so much more")
    options.set_defaults(deadline_ms=DEADLINE_MS)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    runs_help="slow spells of each kind",
    parts=lambda given: (given.slowed,) if given.slowed else (ONE, ALL),
    on_service=OnService(
        "latency",
        experiment,
        everyone=lambda given: given.slowed == ALL,
        parts=lambda given: (given.slowed or ONE,),
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
