"""Drill: the primary is killed under read and write load.

    python -m drills.failover --runs 20 --json --journal DIR --replicas 3
    python -m drills.failover --store postgresql    the same on a PostgreSQL server, which the drill starts
    python -m drills.failover --without standby     the negative control: there is nobody to take over

Hypothesis: writes are back within 300 ms (median over the runs), no read fails, no acknowledged write is lost
or doubled, epochs never fall.

All runs are done to one cluster: the killed replica comes back as a standby, so that by and by every replica
has been primary. Reads and writes go through `muster.client`, as an application's would; every write has its
own event id and is sent once by the drill (retries are the client's business, with the same event id).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

import grpc

from drills.book import watched_in
from drills.experiment import Experiment, Finding, Judgement, Probe, conduct
from drills.faults.process import KillPrimary
from drills.journal import History, Journal
from drills.judges.alerts import over_runs
from drills.judges.checks import FailoverLimits, judge_failover, judge_failover_runs
from drills.outcome import guarded, parser, positive, run_folder, say, tell
from drills.rig.cluster import (
    NAMES,
    RANKING_SERVICE,
    SERVER_COMMAND,
    Cluster,
    ClusterPlan,
    Replica,
    bundle_need,
    find_bundle,
)
from drills.rig.load import OK, OpenLoop, Stream, even_arrivals, poisson_arrivals
from drills.rig.postgres import ThrowawayPostgres, postgres_need
from drills.rig.proxy import Proxy
from drills.rig.shop import Shop, choose_shop, fill
from drills.rig.traffic import ClientReads, ClientWrites, RecordedLoad
from muster.client import ClientSettings, Session
from muster.v1 import catalogue_pb2, catalogue_pb2_grpc

NAME = "failover"
HYPOTHESIS = "writes are back within 300 ms (median), no read fails, no acknowledged write is lost or doubled"
EMPTY: dict[str, Any] = {
    "runs": 0,
    "rto_ms": {"min": None, "p50": None, "max": None},
    "writes_acknowledged": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "reads": 0,
    "read_errors": 0,
    "epochs_monotone": True,
}
DEFAULT_PRODUCTS = 200
"""Small on purpose: what is rehearsed is the change of hands, and a replica that comes back should do so
soon."""


STANDBY = "standby"
SQLITE = "sqlite"
POSTGRESQL = "postgresql"


@dataclass(frozen=True)
class Traffic:
    """The base load: what two cores carry beside three replicas. read_deadline_ms and write_deadline_ms are
    what one call may take, retries included. client: how reads are hedged and retried; None: by default."""

    reads_per_s: float = 50.0
    writes_per_s: float = 20.0
    read_deadline_ms: float = 250.0
    write_deadline_ms: float = 5000.0
    client: ClientSettings | None = None


@dataclass
class Rehearsal:
    """The subject: the cluster, and what the load sends to it.

    server: the PostgreSQL server of the store, where there is one. proxy: what stands between the parties, in
    a drill of the network: its links are named by `to_replica` and `to_store`.
    """

    cluster: Cluster
    queries: Sequence[str]
    product_ids: Sequence[str]
    traffic: Traffic
    from_sequence: int
    store: str = SQLITE
    load: RecordedLoad | None = field(default=None)
    server: ThrowawayPostgres | None = None
    proxy: Proxy | None = None

    @property
    def reached_at(self) -> dict[str, str]:
        """Where clients reach each replica, by its name."""
        own = {replica.name: replica.address for replica in self.cluster.replicas if replica.address}
        if self.proxy is None:
            return own
        return {name: self.proxy.links[to_replica(name)].address for name in own}


def failover_load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
    """Reads and writes side by side through the client, open loop."""
    loop = OpenLoop(client_streams(rehearsal, seed))
    rehearsal.load = RecordedLoad(loop, journal)
    return rehearsal.load


def client_streams(rehearsal: Rehearsal, seed: int, session: Session | None = None) -> tuple[Stream, Stream]:
    """The reads and the writes, in a session of their own where none is given."""
    traffic, addresses = rehearsal.traffic, list(rehearsal.reached_at.values())
    session = session or Session(monotonic_reads=True)
    reads = ClientReads(
        addresses,
        rehearsal.queries,
        deadline_ms=traffic.read_deadline_ms,
        session=session,
        settings=traffic.client,
    )
    writes = ClientWrites(
        addresses,
        rehearsal.product_ids,
        deadline_ms=traffic.write_deadline_ms,
        prefix=f"drill-{seed}-{uuid.uuid4().hex[:8]}",
        session=session,
        settings=traffic.client,
    )
    return (
        Stream("read", poisson_arrivals(traffic.reads_per_s, seed), reads),
        Stream("write", even_arrivals(traffic.writes_per_s), writes),
    )


def reads_are_answered(rehearsal: Rehearsal) -> Finding:
    """Every read that ended in the last second was answered, and some did."""
    return _recent(rehearsal, "read")


def writes_are_acknowledged(rehearsal: Rehearsal) -> Finding:
    """Every write that ended in the last second was acknowledged, and some were."""
    return _recent(rehearsal, "write")


def _recent(rehearsal: Rehearsal, kind: str) -> Finding:
    assert rehearsal.load is not None
    since_s = time.monotonic() - 1.0
    outcomes = Counter(s.status for s in rehearsal.load.samples if s.kind == kind and s.done_s >= since_s)
    return Finding(set(outcomes) == {OK}, f"{kind}s of the last second: {dict(outcomes) or 'none ended'}")


def one_primary(rehearsal: Rehearsal) -> Finding:
    """Exactly one replica says through health that it takes writes."""
    found = [replica.name for replica in rehearsal.cluster.primaries()]
    return Finding(len(found) == 1, f"primaries: {', '.join(found) or 'none'}")


def all_serve_reads(rehearsal: Rehearsal) -> Finding:
    """Every replica serves reads."""
    ill = [r.name for r in rehearsal.cluster.replicas if not rehearsal.cluster.health(r, RANKING_SERVICE)]
    return Finding(not ill, f"not serving: {', '.join(ill)}" if ill else "all serve")


def head_of(cluster: Cluster) -> tuple[int, Replica | None]:
    """The highest sequence that any replica knows, and the replica; 0 and None where none answers."""
    heads: list[tuple[int, Replica]] = []
    for replica in cluster.replicas:
        if replica.running:
            with contextlib.suppress(grpc.RpcError):
                heads.append((cluster.status(replica).head_sequence, replica))
    return max(heads, key=lambda pair: pair[0]) if heads else (0, None)


def collect_log(rehearsal: Rehearsal, journal: Journal) -> None:
    """Reads the log through Watch, from where it stood before the run to its head, into the history."""
    cluster = rehearsal.cluster
    # Any replica may tell the log, so a drill that ends without a primary can still be judged.
    head, teller = head_of(cluster)
    if teller is None:
        return
    entries: list[dict[str, Any]] = []
    if head >= rehearsal.from_sequence:
        stub = catalogue_pb2_grpc.CatalogueServiceStub(cluster.channel(teller))
        stream = stub.Watch(catalogue_pb2.WatchRequest(from_sequence=rehearsal.from_sequence), timeout=30.0)
        try:
            for answer in stream:
                event = answer.event
                entries.append(
                    {
                        "kind": "log",
                        "sequence": event.sequence,
                        "epoch": event.epoch,
                        "event_id": event.event.event_id,
                    }
                )
                if event.sequence >= head:
                    break
        except grpc.RpcError as error:
            # Without log_end the judge knows that it does not know the log.
            journal.extend(entries)
            journal.write("log_failed", status=error.code().name, detail=error.details())
            return
        finally:
            stream.cancel()
    journal.extend(entries)
    journal.write("log_end", head=head)


def experiment(
    *, seed: int, bundle: Path | None, during_s: float = 2.0, store: str = SQLITE
) -> Experiment[Rehearsal]:
    """The failover as a value."""
    everywhere = frozenset({"before", "during", "after"})
    return Experiment(
        name=NAME,
        hypothesis=HYPOTHESIS,
        seed=seed,
        load=failover_load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("writes are acknowledged", writes_are_acknowledged, everywhere),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, frozenset({"before", "after"})),
        ),
        fault=KillPrimary(),
        judge=judge_failover,
        collect=collect_log,
        before_s=1.5,
        during_s=during_s,
        after_s=1.2,
        settle_s=10.0,
        needs=(bundle_need(bundle), *((postgres_need(),) if store == POSTGRESQL else ())),
    )


@dataclass(frozen=True)
class Rehearsed:
    """What differs between two drills that are done several times to one cluster under this load.

    experiment: given the seed of a run. shown: one run's outcome in a few words.
    """

    name: str
    experiment: Callable[[int], Experiment[Rehearsal]]
    shown: Callable[[Judgement], str]


def rehearse(
    rehearsal: Rehearsal,
    drill: Rehearsed,
    *,
    runs: int,
    folder: Path,
    seed: int,
    settings: dict[str, Any],
) -> list[tuple[Judgement, History]]:
    """Does the drill `runs` times to a cluster that is up and filled; returns each judgement with its
    history."""
    outcomes: list[tuple[Judgement, History]] = []
    for number in range(1, runs + 1):
        one = drill.experiment(seed + number - 1)
        with Journal(
            folder / f"run-{number:04d}.jsonl",
            drill=drill.name,
            seed=one.seed,
            settings={**settings, "run": number},
        ) as journal:
            revive(rehearsal.cluster, journal)
            # From the last event of the run before, so that nothing between two runs goes unseen; from the
            # first one on it would take longer each time, and a core that a primary may need.
            rehearsal.from_sequence = max(rehearsal.from_sequence, head_of(rehearsal.cluster)[0])
            judgement = conduct(one, rehearsal, journal, alerts=rehearsal.cluster.alerts)
            outcomes.append((judgement, journal.history()))
        say(f"{drill.name}: run {number} of {runs}: {judgement.verdict}, {drill.shown(judgement)}")
        for reason in judgement.reasons:
            say(f"  - {reason}")
    return outcomes


def revive(cluster: Cluster, journal: Journal) -> None:
    """Starts what has ended by itself since the last run, as a supervisor would, and notes it.

    A machine that keeps a primary waiting for longer than its lease lasts has it killed, between two runs as
    well as in one.
    """
    for replica in cluster.replicas:
        if not replica.running:
            code = None if replica.process is None else replica.process.returncode
            journal.write("revived", replica=replica.name, code=code)
            cluster.restart(replica)


class Setup(TypedDict):
    """What a drill is done to, how often, and where its record goes.

    proxied: a proxy stands between clients and replicas, and between each replica and a PostgreSQL server.
    control: a protection is taken away. noted: beside the settings of the record.
    """

    folder: Path
    shop: Shop
    plan: ClusterPlan
    runs: int
    seed: int
    traffic: Traffic
    keep_data: NotRequired[bool]
    store: NotRequired[str]
    proxied: NotRequired[bool]
    control: NotRequired[bool]
    noted: NotRequired[dict[str, Any]]


def rehearse_on_cluster(
    drill: Rehearsed, setup: Setup
) -> tuple[list[tuple[Judgement, History]], dict[str, Any]]:
    """Starts a fresh cluster, fills it, and rehearses; returns the outcomes and what was run, for the
    record."""
    folder, shop, plan, traffic = setup["folder"], setup["shop"], setup["plan"], setup["traffic"]
    store = setup.get("store", SQLITE)
    server = proxy = None
    with contextlib.ExitStack() as stack:
        if setup.get("proxied"):
            proxy = stack.enter_context(Proxy())
        if store == POSTGRESQL:
            server = stack.enter_context(ThrowawayPostgres())
            plan = on_server(plan, server, proxy)
        plan = replace(plan, alerts=watched_in(drill.name, control=setup.get("control", False)))
        cluster = Cluster(plan, folder / "cluster")
        if not setup.get("keep_data"):
            stack.callback(cluster.remove_data)
        with cluster:
            say(f"{drill.name}: starting {plan.replicas} replicas, catalogue {shop.name}, store {store}")
            cluster.start()
            products = list(shop.products())
            fill(cluster, products, total=len(products), progress=False)
            if proxy is not None:
                for replica in cluster.replicas:
                    proxy.link(to_replica(replica.name), replica.address)
            rehearsal = Rehearsal(
                cluster,
                [query.text for query in shop.queries],
                [product.product_id for product in products[:200]],
                traffic,
                from_sequence=cluster.status(cluster.primary()).head_sequence + 1,
                store=store,
                server=server,
                proxy=proxy,
            )
            settings = {
                "replicas": plan.replicas,
                "store": store,
                "catalogue": shop.name,
                "products": len(products),
                "bundle": cluster.status(cluster.replicas[0]).bundle_id,
                "reads_per_s": traffic.reads_per_s,
                "writes_per_s": traffic.writes_per_s,
                "read_deadline_ms": traffic.read_deadline_ms,
                "write_deadline_ms": traffic.write_deadline_ms,
                **setup.get("noted", {}),
            }
            outcomes = rehearse(
                rehearsal, drill, runs=setup["runs"], folder=folder, seed=setup["seed"], settings=settings
            )
    alerts = over_runs([one.figures.get("alerts", {}) for one, _ in outcomes])
    if alerts:
        settings["alerts"] = alerts
    return outcomes, {**settings, "revived": sum(len(history.of("revived")) for _, history in outcomes)}


def to_replica(name: str) -> str:
    """The link by which clients reach a replica."""
    return f"replica-{name}"


def to_store(name: str) -> str:
    """The link by which a replica reaches the store."""
    return f"store-{name}"


def on_server(plan: ClusterPlan, server: ThrowawayPostgres, proxy: Proxy | None = None) -> ClusterPlan:
    """The plan with its store in a new database of this server, each replica by a link of its own where there
    is a proxy."""
    address = server.create_database("muster")
    catalogue = plan.settings.get("catalogue", {})
    plan = replace(plan, settings={**plan.settings, "catalogue": {**catalogue, "store": address}})
    if proxy is None:
        return plan
    links = {name: proxy.link(to_store(name), server.socket_path) for name in NAMES[: plan.replicas]}
    stores = {
        name: {"catalogue": {"store": server.url_by(link.address, "muster")}} for name, link in links.items()
    }
    return replace(plan, own_settings={**plan.own_settings, **stores})


def each_run(outcomes: Sequence[tuple[Judgement, History]]) -> list[dict[str, Any]]:
    """The runs one by one, for the record."""
    return [{"verdict": str(one.verdict), **one.figures, "reasons": list(one.reasons)} for one, _ in outcomes]


def run(*, limits: FailoverLimits, **setup: Unpack[Setup]) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; returns the judgement over all runs and the details for the
    record."""
    drill = kill_the_primary(setup["plan"].bundle, setup.get("store", SQLITE))
    outcomes, settings = rehearse_on_cluster(drill, setup)
    judgement = judge_failover_runs([one for one, _ in outcomes], limits)
    figures = {"runs": len(outcomes), **judgement.figures}
    details: dict[str, Any] = {**settings, "rto_limit_ms": limits.rto_ms, "each": each_run(outcomes)}
    details["plot"] = str(draw(outcomes, setup["folder"], setup["traffic"]))
    return Judgement(judgement.verdict, figures, judgement.reasons), details


def kill_the_primary(bundle: Path | None, store: str = SQLITE) -> Rehearsed:
    """This drill, to be rehearsed."""

    def shown(judgement: Judgement) -> str:
        rto = judgement.figures.get("rto_ms")
        return "no recovery seen" if rto is None else f"writes back after {rto:.0f} ms"

    return Rehearsed(NAME, lambda seed: experiment(seed=seed, bundle=bundle, store=store), shown)


def draw(
    outcomes: Sequence[tuple[Judgement, History]], folder: Path, traffic: Traffic, name: str = NAME
) -> Path:
    """The picture of the run that shows most: the first that did not hold, else the slowest recovery."""
    # Only here: drawing must not take the cores from the replicas.
    from drills.plot import timeline

    broken = [outcome for outcome in outcomes if outcome[0].verdict.exit_code]
    judgement, history = (broken or sorted(outcomes, key=lambda o: o[0].figures.get("rto_ms") or 0.0)[-1:])[0]
    rto = judgement.figures.get("rto_ms")
    shown = "no recovery" if rto is None else f"writes back after {rto:.0f} ms"
    errors = judgement.figures.get("read_errors", 0)
    return timeline(
        history,
        folder / "timeline.png",
        title=f"{name}: {shown}, {errors} read errors, {judgement.verdict}",
        deadline_ms=traffic.read_deadline_ms,
    )


def load_options(options: argparse.ArgumentParser) -> None:
    """The options of every drill under this load."""
    options.add_argument("--replicas", type=positive(int), default=3, help="2 to 8")
    options.add_argument("--reads", type=positive(float), default=Traffic.reads_per_s, metavar="PER_S")
    options.add_argument("--writes", type=positive(float), default=Traffic.writes_per_s, metavar="PER_S")
    options.add_argument(
        "--deadline-ms", type=positive(float), default=Traffic.read_deadline_ms, help="of a read"
    )
    options.add_argument(
        "--products", type=positive(int), default=DEFAULT_PRODUCTS, help="synthetic, to be served"
    )
    options.add_argument(
        "--store", choices=(SQLITE, POSTGRESQL), default=SQLITE, help="what holds the log (default: sqlite)"
    )


def check_replicas(options: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends with code 2 where nobody would be there to take over."""
    if not 2 <= given.replicas <= 8:
        options.error("--replicas must be 2 to 8: somebody must be there to take over")


def setup_of(given: argparse.Namespace, folder: Path) -> Setup:
    """What was asked for. Raises: Inconclusive where there is no bundle."""
    plan = ClusterPlan(bundle=find_bundle(given.bundle), replicas=given.replicas, command=SERVER_COMMAND)
    traffic = Traffic(reads_per_s=given.reads, writes_per_s=given.writes, read_deadline_ms=given.deadline_ms)
    return Setup(
        folder=folder,
        shop=choose_shop(given.products, given.seed),
        plan=plan,
        runs=given.runs,
        seed=given.seed,
        traffic=traffic,
        keep_data=given.keep_data,
        store=given.store,
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=5, help="how often the primary is killed")
    load_options(options)
    options.add_argument(
        "--rto-ms", type=positive(float), default=FailoverLimits.rto_ms, help="median to hold"
    )
    options.add_argument(
        "--without", choices=(STANDBY,), help="without this protection: the drill must then deviate"
    )
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        limits, setup = FailoverLimits(rto_ms=given.rto_ms), setup_of(given, folder)
        if given.without == STANDBY:
            setup["plan"] = replace(setup["plan"], replicas=1)
        setup["noted"] = {"without": given.without or ""}
        setup["control"] = bool(given.without)
        judgement, details = run(limits=limits, **setup)
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
