"""Drill: the primary is cut off, without a word to anybody, first from its clients, then from the store.

    python -m drills.partition --json                       from its clients
    python -m drills.partition --store postgresql --json    from its clients, then from the store
    python -m drills.partition --without detection          the negative control: no hedges, no pings

Hypothesis: no read fails; a client knows of the cut within 600 ms, and spares the replica its reads; there
is one writer at all times; a primary that is cut off from the store stops acknowledging, and another one does
so within a lease and 600 ms; every replica answers reads meanwhile and says how stale it is; after the
healing all are back.

The links lead through a proxy of the drill's own, which holds what is sent during the cut and delivers it
afterwards, as a network would. A primary that only its clients cannot reach reigns on: their writes wait, as
long as their deadlines allow, until the way is free again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc

from drills import failover
from drills.experiment import Experiment, Judgement, Probe, in_words
from drills.failover import (
    POSTGRESQL,
    Rehearsal,
    Traffic,
    all_serve_reads,
    client_streams,
    collect_log,
    one_primary,
    reads_are_answered,
    to_replica,
    to_store,
    writes_are_acknowledged,
)
from drills.faults.network import CutPrimary
from drills.journal import History, Journal
from drills.judges.network import CLIENTS, STORE, PartitionLimits, judge_partition
from drills.rehearsal import Changes, Rehearsable
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.traffic import ClientReads, ConnectionWatch, RecordedLoad, ReplicaReads, TrustWatch
from muster.client import ClientSettings, Session
from muster.v1 import admin_pb2

NAME = "partition"
HYPOTHESIS = (
    "no read fails, clients know of a cut within 600 ms, there is one writer at all times, and what is stale"
    " says so"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "detection_ms": None,
    "connection_lost_ms": None,
    "rto_ms": None,
    "back_after_healing_ms": None,
    "late_acknowledgements": 0,
    "marked_stale": 0,
    "reads": 0,
    "read_errors": 0,
    "replica_reads": 0,
    "replica_read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
LEASE_TTL_MS = 500
"""Of a replica whose settings name none."""

REPLICA_READS_PER_S = 10.0
"""At each replica; few, for they only look."""

DETECTION = "detection"


def watched_load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """The reads and writes of the failover, searches at each replica past the client, and what the client and
    its connections know of the replicas."""
    traffic = rehearsal.traffic
    direct = {replica.name: replica.address for replica in rehearsal.cluster.replicas}
    looks = ReplicaReads(direct, rehearsal.queries, deadline_ms=1000.0)
    streams = (
        *client_streams(rehearsal, seed, Session(monotonic_reads=True)),
        Stream("replica_read", even_arrivals(REPLICA_READS_PER_S * len(direct)), looks),
    )
    reads = streams[0].caller
    assert isinstance(reads, ClientReads)
    watches = (
        TrustWatch(rehearsal.reached_at, reads, journal),
        ConnectionWatch(rehearsal.reached_at, traffic.client or ClientSettings(), journal),
    )
    rehearsal.load = RecordedLoad(OpenLoop(streams), journal, watches)
    return rehearsal.load


def collect(rehearsal: Rehearsal, journal: Journal) -> None:
    """What each replica says of itself in the end, and the log."""
    cluster = rehearsal.cluster
    for replica in cluster.replicas:
        try:
            status = cluster.status(replica)
        except grpc.RpcError as error:
            journal.write("replica", replica=replica.name, detail=f"{error.code().name}: {error.details()}")
            continue
        journal.write(
            "replica",
            replica=replica.name,
            role=admin_pb2.Role.Name(status.role).removeprefix("ROLE_").lower(),
            serving=status.serving,
            applied_sequence=status.applied_sequence,
            head_sequence=status.head_sequence,
            staleness_ms=status.staleness_ms,
        )
    collect_log(rehearsal, journal)


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One cut as a value. given.part: CLIENTS or STORE."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    between = given.part
    limits = PartitionLimits(writes_back_ms=LEASE_TTL_MS + 600.0 if between == STORE else None)

    def judge(history: History) -> Judgement:
        return judge_partition(history, limits, between)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=watched_load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            # Clients that are cut off from the primary have to wait.
            Probe(
                "writes are acknowledged",
                writes_are_acknowledged,
                everywhere if between == STORE else around,
            ),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=CutPrimary(to_replica if between == CLIENTS else to_store),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=3.0,
        after_s=4.0,
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        ("noticed", figures["detection_ms"]),
        ("writes back", figures["rto_ms"]),
        f"{figures['read_errors']} of {figures['reads']} reads failed",
    )


def without(traffic: Traffic, protection: str | None) -> Traffic:
    """The traffic with one protection of the client's switched off; None: with all."""
    if protection is None:
        return traffic
    assert protection == DETECTION
    client = replace(
        traffic.client or ClientSettings(),
        hedge_share=0.0,
        hedge_burst=0,
        attempts_max=1,
        reserve_share=0.0,
        # A ping that goes unanswered would tell as well, some time within a second.
        keepalive_ms=3_600_000,
        keepalive_timeout_ms=3_600_000,
    )
    return replace(traffic, client=client)


def changes(given: argparse.Namespace) -> Changes:
    """The proxy, and the client without what it detects cuts by."""
    return Changes(proxied=True, client=without(Traffic(), given.without).client)


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument(
        "--between",
        choices=(CLIENTS, STORE),
        help="what the primary is cut off from (default: both; from the store on PostgreSQL only)",
    )


def kinds_of(given: argparse.Namespace) -> tuple[str, ...]:
    """The cuts asked for. Raises: ValueError where a file is to be cut off."""
    if given.between == STORE and given.store != POSTGRESQL:
        raise ValueError(
            "--between store needs --store postgresql: a file has no way to it that could be cut"
        )
    if given.between is not None:
        return (given.between,)
    return (CLIENTS, STORE) if given.store == POSTGRESQL else (CLIENTS,)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(DETECTION,),
    runs=2,
    runs_help="cuts of each kind",
    parts=kinds_of,
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
