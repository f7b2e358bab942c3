"""Drill: a day's demand, with ten times as much at noon as at night, while replicas come and go by price.

    python -m drills.traffic_surge --json --journal DIR
    python -m drills.traffic_surge --without scaling     the control: must deviate

One replica stands; `muster autoscale` may add two more. Each gets a share of a core and no more, as a
container with a limit does, so that on a machine of two cores a further replica really adds something.
Searches go through the client, and noon is half more than what the best plan can do on the standing replica
alone. In the control no replica may be added.

Hypothesis: 99 % of what is not refused is answered within its deadline, over the whole day and while replicas
come and go; no search fails otherwise, no replica starts or ends with an error, the first one joins within
20 s of the price standing above the limit, and at night all that came have gone.

What it does not say: how many replicas a load needs. The plans fall back long before a search is late, so it
is the quality that more replicas buy; it is told, and not judged.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from drills.book import watched_in
from drills.experiment import Experiment, Finding, Judgement, Probe, conduct
from drills.faults.groups import Group, group_need
from drills.journal import Journal
from drills.judges.alerts import over_runs
from drills.judges.surge import SURGE_FIGURES, SurgeLimits, judge_surge
from drills.outcome import guarded, parser, positive, run_folder, say, tell
from drills.rig.arrivals import varying_arrivals
from drills.rig.capacity import measure_capacity
from drills.rig.cluster import (
    RANKING_SERVICE,
    ROOT,
    SERVER_COMMAND,
    Cluster,
    ClusterPlan,
    Replica,
    bundle_need,
    find_bundle,
)
from drills.rig.load import OpenLoop, Stream
from drills.rig.ports import free_ports
from drills.rig.shop import Shop, choose_shop, fill, search_requests
from drills.rig.traffic import ClientReads, RecordedLoad
from muster.autoscale.prices import Looks

NAME = "traffic_surge"
HYPOTHESIS = (
    "over a day with ten times the demand at noon, 99 % of what is not refused is in time, replicas come"
    " within 20 s of the need and go after it, and nothing fails while they do"
)
EMPTY: dict[str, Any] = {**SURGE_FIGURES}
OUT_ABOVE = 0.3
_STARTED = re.compile(r"started, process (\d+)")
_LOOK_S = 0.5
_END_S = 60.0


def day_of(quiet_per_s: float, factor: float, day_s: float, seed: int) -> Iterator[float]:
    """Arrivals from the quietest moment on: a swing from quiet_per_s to `factor` times as much and back."""

    def rate_at(moment_s: float) -> float:
        return quiet_per_s * (1 + (factor - 1) * (1 - math.cos(2 * math.pi * moment_s / day_s)) / 2)

    return varying_arrivals(rate_at, quiet_per_s * factor, seed)


@dataclass
class Day:
    """The subject. quiet_per_s: searches at night. slots: addresses of the replicas that may come."""

    cluster: Cluster
    queries: Sequence[str]
    quiet_per_s: float
    factor: float
    day_s: float
    deadline_ms: float
    slots: Sequence[str]
    core_share: float
    most: int
    load: RecordedLoad | None = field(default=None)

    @property
    def standing(self) -> Replica:
        return self.cluster.replicas[0]


def day_load(day: Day, journal: Journal, seed: int) -> RecordedLoad:
    """Searches through the client, to the standing replica and whoever joins."""
    reads = ClientReads([day.standing.address, *day.slots], day.queries, deadline_ms=day.deadline_ms)
    arrivals = day_of(day.quiet_per_s, day.factor, day.day_s, seed)
    day.load = RecordedLoad(OpenLoop([Stream("read", arrivals, reads)]), journal)
    return day.load


@dataclass
class Scaling:
    """`muster autoscale` beside the load, and a look at the price now and then; undone by ending it, upon
    which it drains what it has started. For one run."""

    name: str = "scaling"
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _threads: list[threading.Thread] = field(default_factory=list)
    _groups: list[Group] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _start_s: float = 0.0

    def inject(self, day: Day) -> dict[str, Any]:
        """Starts it."""
        self._start_s = time.monotonic()
        command = [sys.executable, "-m", "muster.cli", "autoscale", "--json"]
        command += ["--config", str(day.standing.config_path), "--target", day.standing.address]
        command += ["--slots", ",".join(day.slots), "--max", str(day.most)]
        command += ["--out-above", str(OUT_ABOVE), "--in-after", "6s", "--cooldown", "3s"]
        command += ["--logs", str(day.cluster.folder)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for body in (self._listen, self._watch):
            thread = threading.Thread(target=body, args=(day,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return {"slots": len(day.slots), "most": day.most, "instant_s": self._start_s}

    def rollback(self, day: Day) -> dict[str, Any]:
        """Ends it; tells how it ended."""
        self._stop.set()
        code: int | None = None
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(timeout=5.0)
        for group in self._groups:
            group.remove()
        return {"exit": code}

    def _listen(self, day: Day) -> None:
        assert self._process is not None and self._process.stderr is not None
        for line in self._process.stderr:
            sentence = line.strip().removeprefix("autoscale: ")
            if (found := _STARTED.search(sentence)) is not None:
                self._limit(int(found.group(1)), day.core_share)
            self._note("scaling", said=sentence)

    def _limit(self, pid: int, share: float) -> None:
        self._groups += [limited] if (limited := limit_core(pid, share)) is not None else []

    def _watch(self, day: Day) -> None:
        with Looks() as looks:
            while not self._stop.wait(_LOOK_S):
                self._note("price", units=looks.units([day.standing.address]))

    def _note(self, kind: str, **fields: Any) -> None:
        self.records.append((kind, {"since_s": round(time.monotonic() - self._start_s, 3), **fields}))


def limit_core(pid: int, share: float) -> Group | None:
    """Puts a process into a group of its own with a share of a core, in periods of 10 ms.

    Returns: the group, to be removed; None for a whole core. Raises: Inconclusive.
    """
    if share >= 1:
        return None
    group = Group("cpu")
    period_us, quota_us = 10_000, round(10_000 * share)
    if group.version == 1:
        group.set("cpu.cfs_period_us", str(period_us))
        group.set("cpu.cfs_quota_us", str(quota_us))
    else:
        group.set("cpu.max", f"{quota_us} {period_us}")
    group.take(pid)
    return group


def standing_serves(day: Day) -> Finding:
    """The replica that was there from the beginning reports SERVING."""
    ill = not day.cluster.health(day.standing, RANKING_SERVICE, timeout_s=3.0)
    return Finding(not ill, "not serving" if ill else "serving")


def experiment(day: Day, *, seed: int, limits: SurgeLimits, bundle: Path | None) -> Experiment[Day]:
    """The day as a value."""
    scaling = Scaling()

    def collect(subject: Day, journal: Journal) -> None:
        for kind, fields in scaling.records:
            journal.write(kind, **fields)

    return Experiment(
        name=NAME,
        hypothesis=HYPOTHESIS,
        seed=seed,
        load=day_load,
        probes=(Probe("the standing replica serves", standing_serves),),
        fault=scaling,
        judge=lambda history: judge_surge(history, limits),
        collect=collect,
        before_s=1.0,
        # The day, and a night after it in which the last replica goes.
        during_s=day.day_s * 1.15,
        after_s=1.0,
        needs=(bundle_need(bundle), *((group_need("cpu"),) if day.core_share < 1 else ())),
    )


def run(
    *,
    folder: Path,
    shop: Shop,
    plan: ClusterPlan,
    peak: float,
    factor: float,
    day_s: float,
    deadline_ms: float,
    core_share: float,
    more: int,
    scaled: bool,
    seed: int,
    keep_data: bool = False,
) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; the judgement and the details for the record.

    peak: searches at noon, in multiples of what the best plan can do on the standing replica.
    """
    limits = SurgeLimits(out_above=OUT_ABOVE)
    plan = replace(plan, alerts=watched_in(NAME, control=not scaled))
    cluster = Cluster(plan, folder / "cluster")
    requests = search_requests(shop.queries)
    group: Group | None = None
    try:
        with cluster:
            say(f"{NAME}: starting the standing replica, catalogue {shop.name}")
            cluster.start()
            fill(cluster, shop.products(), total=shop.expected_products, progress=False)
            group = limit_core(cluster.replicas[0].pid, core_share)
            capacity = measure_capacity(cluster, requests, concurrency=2, duration_s=3.0)
            noon_per_s = peak * capacity.per_s
            say(
                f"{NAME}: {capacity.per_s:.0f} best plans a second, noon {noon_per_s:.0f} searches, "
                f"night a {factor:g}th of it"
            )
            day = Day(
                cluster,
                [query.text for query in shop.queries],
                noon_per_s / factor,
                factor,
                day_s,
                deadline_ms,
                free_ports(more),
                core_share,
                more if scaled else 0,
            )
            settings: dict[str, Any] = {
                "deadline_ms": deadline_ms,
                "noon_per_s": round(noon_per_s, 1),
                "factor": factor,
                "day_s": day_s,
                "capacity_per_s": round(capacity.per_s, 1),
                "core_share": core_share,
                "more": more,
                "without": "" if scaled else "scaling",
                "catalogue": shop.name,
                "products": shop.expected_products,
            }
            with Journal(folder / "run-0001.jsonl", drill=NAME, seed=seed, settings=settings) as journal:
                one = experiment(day, seed=seed, limits=limits, bundle=plan.bundle)
                judgement = conduct(one, day, journal, alerts=cluster.alerts)
            figures = {**EMPTY, **judgement.figures}
            settings["alerts"] = over_runs([judgement.figures.get("alerts", {})])
            return Judgement(judgement.verdict, figures, judgement.reasons), settings
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                group.remove()
        if not keep_data:
            cluster.remove_data()


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--products", type=positive(int), default=800, help="synthetic, to be served")
    options.add_argument(
        "--peak", type=positive(float), default=2.5, help="of the standing replica's capacity, at noon"
    )
    options.add_argument("--factor", type=positive(float), default=10.0, help="noon over night")
    options.add_argument("--day-s", type=positive(float), default=60.0, help="length of the day")
    options.add_argument("--deadline-ms", type=positive(float), default=100.0, help="of a search")
    options.add_argument(
        "--core-share", type=positive(float), default=0.3, help="of one core, for each replica; 1: no limit"
    )
    options.add_argument("--more", type=positive(int), default=2, help="replicas that may be added")
    options.add_argument(
        "--without", choices=("scaling",), help="serve without this: the drill must then deviate"
    )
    given = options.parse_args(list(arguments))
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        plan = ClusterPlan(
            bundle=find_bundle(given.bundle),
            replicas=1,
            command=SERVER_COMMAND,
            settings={"ranking": {"workers": 1}, "lease": {"ttl_ms": 5000}},
        )
        try:
            judgement, details = run(
                folder=folder,
                shop=choose_shop(given.products, given.seed),
                plan=plan,
                peak=given.peak,
                factor=given.factor,
                day_s=given.day_s,
                deadline_ms=given.deadline_ms,
                core_share=given.core_share,
                more=given.more,
                scaled=given.without is None,
                seed=given.seed,
                keep_data=given.keep_data,
            )
        except grpc.RpcError as error:
            raise OSError(f"a replica did not answer before the day began: {error}") from error
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
