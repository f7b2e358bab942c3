"""Drill: one query is suddenly asked far more often than all others together.

    python -m drills.hot_key --json
    python -m drills.hot_key --factor 4
    python -m drills.hot_key --without core    the negative control: halted half of the time
    python -m drills.hot_key --target HOST:PORT,...    to a running service

Hypothesis: of the other queries, as many are answered within their 50 ms as without the hot one, but for 2 in
100.

1. One replica is started on a real catalogue (else a synthetic one), and its capacity is measured.
2. The other queries come evenly mixed, at 0.3 of it, throughout; in the middle the hot query comes on top, at
   `--factor` times the capacity. Open loop, Poisson.
3. The judge compares the other queries' share in time with and without the hot one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drills.book import watched_in
from drills.experiment import Alerts, Experiment, Finding, Judgement, Probe, conduct
from drills.faults.process import CORE, Halting, core_option
from drills.journal import History, Journal
from drills.judges.alerts import over_runs
from drills.judges.hot_key import HotLimits, judge_hot_key
from drills.outcome import guarded, machine_options, parser, positive, run_folder, say, tell
from drills.rig.capacity import measure_capacity, plan_beside_generator
from drills.rig.cluster import RANKING_SERVICE, Cluster, ClusterPlan, bundle_need, find_bundle
from drills.rig.load import (
    LATE_AFTER_S,
    OK,
    Ended,
    OpenLoop,
    SearchFlood,
    Stream,
    poisson_arrivals,
    receipt_fields,
)
from drills.rig.service import asked_of_service, refuse_control, service_options, with_leave
from drills.rig.shop import Shop, choose_shop, fill, requests_for, search_requests
from drills.rig.traffic import RecordedLoad
from muster.v1 import ranking_pb2

NAME = "hot_key"
HYPOTHESIS = (
    "when one query is asked far more often than all others, as many of those are answered in time as before,"
    " but for 2 in 100"
)
EMPTY: dict[str, Any] = {
    "capacity_per_s": None,
    "others": 0,
    "others_in_time_share": None,
    "base_in_time_share": None,
    "hot": 0,
    "hot_in_time_share": None,
    "others_quality": None,
    "base_quality": None,
}
BASE_SHARE = 0.3
DEADLINE_MS = 50.0
DEFAULT_PRODUCTS = 2000
"""Enough that a search costs what it costs; loading more takes longer than the drill."""


class ToldSearches(SearchFlood):
    """A flood whose answers are read at once, for rates at which that is no burden."""

    def send(self, index: int, intended_s: float, ended: Ended) -> None:
        """As `SearchFlood.send`; the receipt's fields are kept instead of the answer."""

        def told(status: str, fields: dict[str, Any]) -> None:
            body = fields.get("body")
            if body is None:
                ended(status, fields)
            else:
                ended(status, receipt_fields(ranking_pb2.SearchResponse.FromString(body).receipt))

        super().send(index, intended_s, told)


@dataclass
class Counter:
    """The subject: the cluster, what is asked of it, and how often.

    others, hot: serialised requests. others_per_s, hot_per_s: how many of each.
    """

    cluster: Cluster
    others: Sequence[bytes]
    hot: bytes
    others_per_s: float
    hot_per_s: float
    deadline_ms: float
    load: RecordedLoad | None = field(default=None)


def others_load(counter: Counter, journal: Journal, seed: int) -> RecordedLoad:
    """The other queries."""
    caller = ToldSearches(counter.cluster.addresses, counter.others, deadline_ms=counter.deadline_ms)
    counter.load = RecordedLoad(
        OpenLoop([Stream("read", poisson_arrivals(counter.others_per_s, seed), caller)]), journal
    )
    return counter.load


@dataclass
class HotQuery:
    """The hot query, on connections of its own, until it is undone. For one run.

    halted: the replicas stand still half of the time meanwhile.
    """

    seed: int
    halted: bool = False
    name: str = "hot query"
    _halting: Halting | None = None
    loop: OpenLoop | None = None

    def inject(self, counter: Counter) -> dict[str, Any]:
        """Begins to ask it."""
        caller = ToldSearches(counter.cluster.addresses, [counter.hot], deadline_ms=counter.deadline_ms)
        self.loop = OpenLoop([Stream("hot", poisson_arrivals(counter.hot_per_s, self.seed), caller)])
        self.loop.start()
        self._halting = Halting(counter.cluster, wanted=self.halted)
        self._halting.start()
        return {"per_s": round(counter.hot_per_s, 1), "instant_s": self.loop.start_s}

    def rollback(self, counter: Counter) -> dict[str, Any]:
        """Asks no more."""
        instant_s = time.monotonic()
        if self._halting is not None:
            self._halting.stop()
        if self.loop is not None:
            self.loop.stop()
        return {"instant_s": instant_s}

    def record(self, journal: Journal) -> None:
        """Writes what became of it into the history."""
        if self.loop is not None:
            journal.extend(sample.record(journal.start_s) for sample in self.loop.samples)


def others_are_answered(counter: Counter) -> Finding:
    """At least 95 % of the last second's other searches were answered in time."""
    assert counter.load is not None
    now_s = time.monotonic()
    window = [one for one in counter.load.samples if now_s - 1.2 <= one.intended_s <= now_s - 0.2]
    hits = sum(one.status == OK and one.latency_s * 1000 <= counter.deadline_ms for one in window)
    return Finding(bool(window) and hits >= 0.95 * len(window), f"{hits} of {len(window)} in time")


def replica_is_healthy(counter: Counter) -> Finding:
    """The read service reports SERVING."""
    cluster = counter.cluster
    ill = [one.name for one in cluster.replicas if not cluster.health(one, RANKING_SERVICE, timeout_s=3.0)]
    return Finding(not ill, f"not serving: {ill}" if ill else "serving")


def experiment(
    counter: Counter, *, seed: int, limits: HotLimits, bundle: Path | None, halted: bool = False
) -> Experiment[Counter]:
    """The hot query as a value. halted: as of `HotQuery`."""
    hot = HotQuery(seed + 1, halted)

    def judge(history: History) -> Judgement:
        return judge_hot_key(history, limits)

    return Experiment(
        name=NAME,
        hypothesis=HYPOTHESIS,
        seed=seed,
        load=others_load,
        probes=(
            Probe("the others are answered in time", others_are_answered, frozenset({"before"})),
            Probe("the replica is healthy", replica_is_healthy),
        ),
        fault=hot,
        judge=judge,
        collect=lambda subject, journal: hot.record(journal),
        before_s=6.0,
        during_s=8.0,
        after_s=1.0,
        settle_s=10.0,
        needs=(bundle_need(bundle),),
    )


def run(
    *,
    folder: Path,
    shop: Shop,
    plan: ClusterPlan,
    factor: float,
    deadline_ms: float,
    concurrency: int,
    seed: int,
    limits: HotLimits,
    without: str | None = None,
    keep_data: bool = False,
) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; the judgement and the details for the record."""
    requests = search_requests(shop.queries)
    random.Random(seed).shuffle(requests)
    plan = replace(plan, alerts=watched_in(NAME, control=without is not None))
    cluster = Cluster(plan, folder / "cluster")
    try:
        with cluster:
            say(f"{NAME}: starting {plan.replicas} replica(s), catalogue {shop.name}")
            cluster.start()
            loaded = fill(cluster, shop.products(), total=shop.expected_products, progress=False)
            capacity = measure_capacity(cluster, requests, concurrency=concurrency, duration_s=3.0)
            say(
                f"{NAME}: {capacity.per_s:.0f} searches/s by {capacity.tier}@{capacity.depth}; the hot query "
                f"comes at {factor:g} times that"
            )
            counter = Counter(
                cluster,
                requests[1:],
                requests[0],
                max(1.0, BASE_SHARE * capacity.per_s),
                factor * capacity.per_s,
                deadline_ms,
            )
            settings = {
                "factor": factor,
                "deadline_ms": deadline_ms,
                "late_after_ms": LATE_AFTER_S * 1000.0,
                "without": without or "",
                "capacity_per_s": round(capacity.per_s, 1),
                "catalogue": shop.name,
                "products": loaded.products,
                "bundle": cluster.status(cluster.replicas[0]).bundle_id,
            }
            whole = experiment(counter, seed=seed, limits=limits, bundle=plan.bundle, halted=without == CORE)
            judgement = _once(whole, counter, folder, settings, cluster.alerts)
    finally:
        if not keep_data:
            cluster.remove_data()
    return judgement, {**settings, "alerts": over_runs([judgement.figures.get("alerts", {})])}


def run_on_service(
    given: argparse.Namespace, folder: Path, limits: HotLimits
) -> tuple[Judgement, dict[str, Any]]:
    """The hot query against the service at `given.target`: as often as its operators allow, a tenth of that
    for the others, to as many replicas as may be harmed. Returns as `run` does. Raises: Inconclusive."""
    asked = asked_of_service(given, "flood")
    others_per_s = asked.rate_per_s / 11
    requests = requests_for(asked.queries)
    with with_leave(
        given.target, NAME, "flood", replicas=asked.harmed, rate_per_s=asked.rate_per_s
    ) as service:
        counter = Counter(
            service.part(asked.harmed),
            requests[1:] or requests,
            requests[0],
            others_per_s,
            10 * others_per_s,
            given.deadline_ms,
        )
        settings = {
            "target": given.target,
            "harmed": asked.harmed,
            "rate_per_s": asked.rate_per_s,
            "deadline_ms": given.deadline_ms,
            "late_after_ms": LATE_AFTER_S * 1000.0,
            "capacity_per_s": None,
        }
        whole = replace(experiment(counter, seed=given.seed, limits=limits, bundle=None), needs=())
        return _once(whole, counter, folder, settings), settings


def _once(
    whole: Experiment[Counter],
    counter: Counter,
    folder: Path,
    settings: dict[str, Any],
    alerts: Alerts | None = None,
) -> Judgement:
    with Journal(folder / "run-0001.jsonl", drill=NAME, seed=whole.seed, settings=settings) as journal:
        return conduct(whole, counter, journal, alerts=alerts)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument(
        "--factor", type=positive(float), default=2.0, help="of the hot query, times the capacity"
    )
    options.add_argument("--deadline-ms", type=positive(float), default=DEADLINE_MS, help="of every search")
    options.add_argument("--replicas", type=positive(int), default=1, help="that share the load")
    machine_options(options)
    service_options(options)
    options.set_defaults(products=DEFAULT_PRODUCTS)
    core_option(options)
    given = options.parse_args(list(arguments))
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        if given.target:
            refuse_control(given)
            judgement, details = run_on_service(given, folder, HotLimits())
            return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)
        plan, concurrency = plan_beside_generator(find_bundle(given.bundle), given, replicas=given.replicas)
        judgement, details = run(
            folder=folder,
            shop=choose_shop(given.products, given.seed),
            plan=plan,
            factor=given.factor,
            deadline_ms=given.deadline_ms,
            concurrency=concurrency,
            seed=given.seed,
            limits=HotLimits(),
            without=given.without,
            keep_data=given.keep_data,
        )
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
