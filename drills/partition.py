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
from drills.experiment import Experiment, Judgement, Probe
from drills.failover import (
    POSTGRESQL,
    Rehearsal,
    Rehearsed,
    Setup,
    Traffic,
    all_serve_reads,
    check_replicas,
    client_streams,
    collect_log,
    each_run,
    load_options,
    one_primary,
    reads_are_answered,
    rehearse_on_cluster,
    setup_of,
    to_replica,
    to_store,
    writes_are_acknowledged,
)
from drills.faults.network import CutPrimary
from drills.journal import History, Journal
from drills.judges.network import CLIENTS, STORE, PartitionLimits, judge_partition, over_kinds, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.rig.cluster import ClusterPlan
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


def lease_ttl_ms(plan: ClusterPlan) -> float:
    """The lease of the replicas of this plan."""
    return float(plan.settings.get("lease", {}).get("ttl_ms", LEASE_TTL_MS))


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


def experiment(
    *, seed: int, plan: ClusterPlan, between: str, store: str, during_s: float = 3.0
) -> Experiment[Rehearsal]:
    """One cut as a value. between: CLIENTS or STORE."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    limits = PartitionLimits(writes_back_ms=lease_ttl_ms(plan) + 600.0 if between == STORE else None)

    def judge(history: History) -> Judgement:
        return judge_partition(history, limits, between)

    return replace(
        failover.experiment(seed=seed, bundle=plan.bundle, store=store),
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
        during_s=during_s,
        after_s=4.0,
    )


def run(setup: Setup, between: str) -> tuple[Judgement, dict[str, Any]]:
    """All cuts of one kind on a fresh cluster; the judgement over them, and the details for the record."""
    plan, store = setup["plan"], setup.get("store", failover.SQLITE)

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        took = (
            f"noticed after {figures['detection_ms']} ms"
            if between == CLIENTS
            else f"writes back after {figures['rto_ms']} ms"
        )
        return f"cut off from {between}: {took}, {figures['read_errors']} of {figures['reads']} reads failed"

    drill = Rehearsed(
        NAME, lambda seed: experiment(seed=seed, plan=plan, between=between, store=store), shown
    )
    outcomes, settings = rehearse_on_cluster(drill, setup)
    return over_runs([one for one, _ in outcomes]), {**settings, "each": each_run(outcomes)}


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


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=2, help="cuts of each kind")
    options.add_argument(
        "--between",
        choices=(CLIENTS, STORE),
        help="what the primary is cut off from (default: both; from the store on PostgreSQL only)",
    )
    options.add_argument("--without", choices=(DETECTION,), help="switch this protection of the client off")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    kinds = kinds_of(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        setup = setup_of(given, folder)
        setup["traffic"] = without(setup["traffic"], given.without)
        setup["proxied"] = True
        judgements, details = [], {}
        for between in kinds:
            setup["folder"] = folder / between
            judgement, details[between] = run(setup, between)
            judgements.append(judgement)
        return tell(NAME, over_kinds(judgements), as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


def kinds_of(options: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[str, ...]:
    """The cuts asked for; ends with code 2 where a file is to be cut off."""
    if given.between == STORE and given.store != POSTGRESQL:
        options.error("--between store needs --store postgresql: a file has no way to it that could be cut")
    if given.between is not None:
        return (given.between,)
    return (CLIENTS, STORE) if given.store == POSTGRESQL else (CLIENTS,)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
