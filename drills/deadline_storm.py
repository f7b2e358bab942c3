"""Drill: a flood at a multiple of the capacity, every request with a short deadline.

    python -m drills.deadline_storm --factor 5 --json
    python -m drills.deadline_storm --target HOST:PORT,...    to a running service
    python -m drills.deadline_storm --without core    the negative control: halted half of the time
    python -m drills.deadline_storm --recommend-share 0    searches alone

Hypothesis: the ladder of plans answers at least 95 % of all requests in time at 5 times what the best plan
could do, and as many of the recommendations that are asked for beside them.

1. One replica is started on a real catalogue (else a synthetic one) and its generation is built.
2. Capacity: a closed loop with long deadlines counts how many searches a second the best plan answers, in
full.
3. Base load at 0.3 of it, the flood at `--factor` times it, base load again; open loop, Poisson, mixed
queries. Recommendations come on top, so that searches are offered as often as without them: a fifth of all
calls, for histories of three products of the catalogue.
4. The judge reads what was intended during the flood. A request counts from its intended moment.

The generator must keep to its schedule; where it could not, it was the bottleneck and the drill says so.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drills.book import watched_in
from drills.experiment import Alerts, Experiment, Finding, Judgement, Probe, conduct
from drills.faults.process import CORE, Halting, core_option
from drills.journal import History, Journal
from drills.judges.alerts import over_runs
from drills.judges.checks import StormLimits, judge_storm
from drills.outcome import guarded, machine_options, parser, positive, run_folder, say, share_below_one, tell
from drills.rig.capacity import measure_capacity, plan_beside_generator
from drills.rig.cluster import RANKING_SERVICE, Cluster, ClusterPlan, bundle_need, find_bundle
from drills.rig.load import (
    LATE_AFTER_S,
    OK,
    RECOMMENDATION,
    OpenLoop,
    Sample,
    SearchFlood,
    Stream,
    decode,
    poisson_arrivals,
)
from drills.rig.recommended import beside, flood_of, products_found
from drills.rig.service import asked_of_service, refuse_control, service_options, with_leave
from drills.rig.shop import Shop, choose_shop, fill, requests_for, search_requests
from drills.rig.traffic import RecordedLoad

NAME = "deadline_storm"
HYPOTHESIS = "at 5 times the capacity, at least 95 % of all requests are answered within their 50 ms"
BASE_SHARE = 0.3
RECOMMEND_SHARE = 0.2
"""Of all calls."""
ENCODE_BUDGET_S = 60.0
"""Of a large catalogue only so many products are loaded as the machine encodes in this time."""
LOW_QUALITY = 0.97
"""Below this share of the best plan's quality its alert is due; the rule says .98, of a mean over minutes."""

EMPTY: dict[str, Any] = {
    "load_factor": None,
    "offered": 0,
    "in_time": 0,
    "in_time_share": None,
    "full_quality_share": None,
    "quality_in_time": None,
    "tiers": {},
    "recommendations": {},
}


@dataclass(frozen=True)
class Phase:
    """A stretch of the schedule at one rate."""

    duration_s: float
    rate_per_s: float


def phased_arrivals(phases: Sequence[Phase], seed: int) -> Iterator[float]:
    """Arrival times in seconds from 0: one Poisson process after the other, ends with the last phase."""
    start_s = 0.0
    for number, phase in enumerate(phases):
        for offset_s in poisson_arrivals(phase.rate_per_s, seed + number):
            if offset_s >= phase.duration_s:
                break
            yield start_s + offset_s
        start_s += phase.duration_s


@dataclass
class Storm:
    """The subject: the cluster, the searches to send and the phases of the load.

    recommend_share: of all calls. product_ids: what the histories of recommendations are drawn from.
    """

    cluster: Cluster
    requests: Sequence[bytes]
    phases: tuple[Phase, Phase, Phase]
    deadline_ms: float
    recommend_share: float = 0.0
    product_ids: Sequence[str] = ()
    load: StormLoad | None = field(default=None)


class ReceiptLoop(OpenLoop):
    """An open loop whose kept answers are read once it has ended: reading them takes time from the load."""

    def stop(self) -> list[Sample]:
        """As `OpenLoop.stop`, with the fields of the receipts in place of the answers."""
        samples = super().stop()
        decode(samples)
        return samples


class StormLoad(RecordedLoad):
    """The whole schedule, base load and flood in one."""

    def __init__(self, storm: Storm, journal: Journal, seed: int) -> None:
        self._phases = storm.phases
        caller = SearchFlood(storm.cluster.addresses, storm.requests, deadline_ms=storm.deadline_ms)
        arrivals = list(phased_arrivals(storm.phases, seed))
        streams = [Stream("read", iter(arrivals), caller)]
        self.planned = len(arrivals)
        if storm.recommend_share:
            more = beside(storm.recommend_share)
            phases = [Phase(one.duration_s, more * one.rate_per_s) for one in storm.phases]
            arrivals = list(phased_arrivals(phases, seed + len(phases)))
            flood = flood_of(storm.cluster.addresses, storm.product_ids, seed, storm.deadline_ms)
            streams.append(Stream(RECOMMENDATION, iter(arrivals), flood))
            self.planned += len(arrivals)
        super().__init__(ReceiptLoop(streams), journal)
        storm.load = self

    def start(self) -> None:
        """Connects and begins; the flood's place in time goes into the history."""
        super().start()
        start_s = self._journal.elapsed_s(self._loop.start_s)
        flood_s = start_s + self._phases[0].duration_s
        self._journal.write(
            "schedule",
            start_s=start_s,
            flood_from_s=round(flood_s, 6),
            flood_to_s=round(flood_s + self._phases[1].duration_s, 6),
            planned=self.planned,
        )


@dataclass
class Flood:
    """The fault is in the schedule; injecting it means waiting for its moment. For one run.

    halted: the replicas stand still half of the time meanwhile.
    """

    halted: bool = False
    name: str = "flood"
    _halting: Halting | None = None

    def inject(self, storm: Storm) -> dict[str, Any]:
        """Tells what begins now."""
        self._halting = Halting(storm.cluster, wanted=self.halted)
        self._halting.start()
        return {"rate_per_s": round(storm.phases[1].rate_per_s, 1)}

    def rollback(self, storm: Storm) -> None:
        """The schedule falls back to the base load by itself."""
        if self._halting is not None:
            self._halting.stop()


def base_load_is_answered(storm: Storm) -> Finding:
    """At least 95 % of the last second's calls were answered in time."""
    assert storm.load is not None
    now_s = time.monotonic()
    window = [
        sample
        for sample in storm.load.samples
        if now_s - 1.0 <= sample.intended_s <= now_s - storm.deadline_ms / 1000.0 - 0.1
    ]
    if not window:
        return Finding(False, "no call ended in the last second")
    hits = sum(sample.status == OK and sample.latency_s * 1000 <= storm.deadline_ms for sample in window)
    statuses = Counter(sample.status for sample in window)
    return Finding(hits >= 0.95 * len(window), f"{hits} of {len(window)} in time ({dict(statuses)})")


def replica_is_healthy(storm: Storm) -> Finding:
    """The read service still reports SERVING while it sheds."""
    ill = [
        r.name for r in storm.cluster.replicas if not storm.cluster.health(r, RANKING_SERVICE, timeout_s=3.0)
    ]
    return Finding(not ill, f"not serving: {ill}" if ill else "serving")


def flooded(history: History) -> History:
    """The history with only those calls that were intended during the flood."""
    calls = ("read", RECOMMENDATION)
    schedule = history.first("schedule")
    if schedule is None:
        return History(tuple(record for record in history.records if record["kind"] not in calls))
    start_s, end_s = schedule["flood_from_s"], schedule["flood_to_s"]
    return History(
        tuple(
            record
            for record in history.records
            if record["kind"] not in calls or start_s <= record["intended_s"] < end_s
        )
    )


def experiment(
    storm: Storm, *, seed: int, limits: StormLimits, bundle: Path | None, halted: bool = False
) -> Experiment[Storm]:
    """The storm as a value. halted: as of `Flood`."""
    before, during, after = storm.phases

    def judge(history: History) -> Judgement:
        return judge_storm(flooded(history), limits)

    def quality_was_kept(history: History) -> str | None:
        # Where cheap plans are nearly as good as the best, a flood need not bring quality down.
        kept = judge(history).figures["quality_in_time"]
        due = kept is None or kept < LOW_QUALITY
        return None if due else f"{kept:.3f} of the best plan's quality was kept"

    return Experiment(
        name=NAME,
        hypothesis=HYPOTHESIS,
        seed=seed,
        load=StormLoad,
        probes=(
            Probe("the base load is answered in time", base_load_is_answered, frozenset({"before", "after"})),
            Probe(
                "the replica reports itself healthy",
                replica_is_healthy,
                frozenset({"before", "during", "after"}),
            ),
        ),
        fault=Flood(halted),
        judge=judge,
        collect=lambda subject, journal: None,
        alert_excuse=quality_was_kept,
        before_s=before.duration_s,
        during_s=during.duration_s,
        after_s=after.duration_s,
        needs=(bundle_need(bundle),),
    )


def run(
    *,
    folder: Path,
    shop: Shop,
    plan: ClusterPlan,
    factor: float,
    deadline_ms: float,
    duration_s: float,
    concurrency: int,
    seed: int,
    limits: StormLimits,
    recommend_share: float = RECOMMEND_SHARE,
    progress: bool = True,
    without: str | None = None,
    keep_data: bool = False,
) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; returns the judgement and the details for the record."""
    requests = search_requests(shop.queries)
    random.Random(seed).shuffle(requests)
    plan = replace(plan, alerts=watched_in(NAME, control=without is not None))
    cluster = Cluster(plan, folder / "cluster")
    try:
        with cluster:
            say(f"{NAME}: starting {plan.replicas} replica(s), catalogue {shop.name}")
            cluster.start()
            products = shop.judged_first()
            loaded = fill(
                cluster,
                products,
                total=shop.expected_products,
                progress=progress,
                within_s=ENCODE_BUDGET_S,
            )
            say(
                f"{NAME}: {loaded.products} of {loaded.offered} products in one generation; "
                "measuring capacity"
            )
            capacity = measure_capacity(cluster, requests, concurrency=concurrency, duration_s=3.0)
            say(
                f"{NAME}: best plan {capacity.tier}@{capacity.depth}: {capacity.per_s:.0f} searches/s; "
                f"offering {factor:g} times that for {duration_s:g} s"
            )
            phases = (
                Phase(2.0, max(1.0, BASE_SHARE * capacity.per_s)),
                Phase(duration_s, factor * capacity.per_s),
                Phase(3.0, max(1.0, BASE_SHARE * capacity.per_s)),
            )
            known = [product.product_id for product in products[: loaded.products]]
            storm = Storm(cluster, requests, phases, deadline_ms, recommend_share, known)
            settings = {
                "load_factor": factor,
                "recommend_share": recommend_share,
                "deadline_ms": deadline_ms,
                "without": without or "",
                "late_after_ms": LATE_AFTER_S * 1000.0,
                "capacity_per_s": round(capacity.per_s, 1),
                "best_plan": {"tier": capacity.tier, "depth": capacity.depth, "p50_ms": capacity.p50_ms},
                "catalogue": shop.name,
                "products": loaded.products,
                "bundle": cluster.status(cluster.replicas[0]).bundle_id,
            }
            whole = experiment(storm, seed=seed, limits=limits, bundle=plan.bundle, halted=without == CORE)
            judgement, history = _once(whole, storm, folder, settings, cluster.alerts)
    finally:
        if not keep_data:
            cluster.remove_data()
    offered = f"{factor:g} x {capacity.per_s:.0f} searches/s"
    return judgement, _told(judgement, history, folder, settings, offered)


def run_on_service(
    given: argparse.Namespace, folder: Path, limits: StormLimits
) -> tuple[Judgement, dict[str, Any]]:
    """The flood against the service at `given.target`: as much as its operators allow, a tenth of it as base
    load, to as many replicas as may be harmed. What its best plan can do is not measured, for that takes a
    flood of its own. Returns as `run` does. Raises: Inconclusive."""
    asked = asked_of_service(given, "flood")
    rate_per_s, deadline_ms = asked.rate_per_s / 1.1, given.deadline_ms
    requests = requests_for(asked.queries)
    with with_leave(
        given.target, NAME, "flood", replicas=asked.harmed, rate_per_s=asked.rate_per_s
    ) as service:
        base_per_s = max(1.0, rate_per_s / 10)
        # What the operators allow is all calls together.
        searches = 1.0 - given.recommend_share
        phases = (
            Phase(2.0, searches * base_per_s),
            Phase(given.duration, searches * rate_per_s),
            Phase(3.0, searches * base_per_s),
        )
        harmed = service.part(asked.harmed)
        known = products_found(harmed.addresses, asked.queries) if given.recommend_share else []
        storm = Storm(harmed, requests, phases, deadline_ms, given.recommend_share, known)
        settings = {
            "target": given.target,
            "harmed": asked.harmed,
            "rate_per_s": round(rate_per_s, 1),
            "load_factor": None,
            "recommend_share": given.recommend_share,
            "deadline_ms": deadline_ms,
            "late_after_ms": LATE_AFTER_S * 1000.0,
        }
        whole = replace(experiment(storm, seed=given.seed, limits=limits, bundle=None), needs=())
        judgement, history = _once(whole, storm, folder, settings)
    return judgement, _told(judgement, history, folder, settings, f"{rate_per_s:.0f} searches/s")


def _once(
    whole: Experiment[Storm],
    storm: Storm,
    folder: Path,
    settings: dict[str, Any],
    alerts: Alerts | None = None,
) -> tuple[Judgement, History]:
    with Journal(folder / "run-0001.jsonl", drill=NAME, seed=whole.seed, settings=settings) as journal:
        judgement = conduct(whole, storm, journal, alerts=alerts)
        return judgement, journal.history()


def _told(
    judgement: Judgement, history: History, folder: Path, settings: dict[str, Any], offered: str
) -> dict[str, Any]:
    deadline_ms = settings["deadline_ms"]
    title = f"deadline storm: {offered}, {deadline_ms:g} ms, {judgement.verdict}"
    # Only here: drawing must not take the cores from the replicas.
    from drills.plot import timeline

    picture = timeline(history, folder / "timeline.png", title=title, deadline_ms=deadline_ms)
    reads = [*flooded(history).of("read"), *flooded(history).of(RECOMMENDATION)]
    late = sum(read["sent_s"] - read["intended_s"] > LATE_AFTER_S for read in reads)
    return {
        **settings,
        "sent_late": late,
        "alerts": over_runs([judgement.figures.get("alerts", {})]),
        "statuses": dict(Counter(read["status"] for read in reads)),
        "plot": str(picture),
    }


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--factor", type=positive(float), default=5.0, help="times the measured capacity")
    options.add_argument("--deadline-ms", type=positive(float), default=50.0, help="of every request")
    options.add_argument(
        "--duration", type=positive(float), default=10.0, metavar="SECONDS", help="of the flood"
    )
    options.add_argument(
        "--recommend-share",
        type=share_below_one,
        default=RECOMMEND_SHARE,
        metavar="SHARE",
        help="of all calls that ask for recommendations, below 1; they come on top of the searches",
    )
    options.add_argument("--replicas", type=positive(int), default=1, help="that share the load")
    machine_options(options)
    service_options(options)
    options.add_argument(
        "--in-time-share", type=positive(float), default=StormLimits().in_time_share, help="to hold"
    )
    core_option(options)
    given = options.parse_args(list(arguments))
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        limits = StormLimits(in_time_share=given.in_time_share)
        if given.target:
            refuse_control(given)
            judgement, details = run_on_service(given, folder, limits)
            return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)
        plan, concurrency = plan_beside_generator(find_bundle(given.bundle), given, replicas=given.replicas)
        judgement, details = run(
            folder=folder,
            shop=choose_shop(given.products, given.seed),
            plan=plan,
            factor=given.factor,
            deadline_ms=given.deadline_ms,
            duration_s=given.duration,
            concurrency=concurrency,
            seed=given.seed,
            limits=limits,
            recommend_share=given.recommend_share,
            without=given.without,
            keep_data=given.keep_data,
        )
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
