"""Drill: what is asked moves away from what the service has seen so far.

    python -m drills.model_drift --json --journal DIR
    python -m drills.model_drift --without measure     the control: must deviate

Replicas take a reference of what they are asked and, while nothing moves, must not call it drift. Then
callers ask for more and more in words that nobody used before, up to all of it in six steps; no product has
these words yet. After each step the drift is read from /metrics and nDCG@10 is measured on judged queries of
the mix as it is then. The remedy is that of a seller: products in the new words, and a generation built anew.
In the control each look takes the reference away, as who takes every day for normal would.

Hypothesis: while nothing moves the index stays at or below .25; when the demand moves it rises above before
nDCG@10 has fallen by more than .3; after the remedy nDCG@10 is at least .6 of what it was (the encoder cannot
read words that do not exist); no read fails. The receipts' expected quality is told beside the measured one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Inconclusive, Judgement
from drills.failover import Rehearsal, collect_log
from drills.journal import Journal
from drills.judges.drift import DRIFT_FIGURES, DriftLimits, judge_model_drift
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable
from drills.rig.cluster import NAMES, ClusterPlan
from drills.rig.drift import (
    Demand,
    DemandReads,
    highest_index,
    moved_product,
    moved_query,
    referenced,
    scraped,
)
from drills.rig.load import OpenLoop, Stream, even_arrivals, poisson_arrivals
from drills.rig.ports import free_ports
from drills.rig.quality import judged, served_quality
from drills.rig.shop import Shop, choose_shop, fill
from drills.rig.traffic import ClientWrites, RecordedLoad

NAME = "model_drift"
HYPOTHESIS = (
    "a demand that stays is not called drift; one that moves to new words is, before nDCG@10 has fallen by"
    " more than .3; products in these words and a new generation bring at least .6 of it back; no read fails"
)
EMPTY: dict[str, Any] = {"runs": 0, **DRIFT_FIGURES}
STEPS = 6
_REFERENCE_S = 60.0


@dataclass
class MovingDemand:
    """The demand moves in steps, and a remedy follows; undone by asking as before. For one run.

    step_s: of each step, at least the window that the replicas compare. forget: the reference is taken away
    at each look.
    """

    shop: Shop
    demand: Demand
    metrics: Sequence[str]
    step_s: float
    queries: int
    forget: bool
    name: str = "moving demand"
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def inject(self, subject: Rehearsal) -> dict[str, Any]:
        """All of it. Raises: Inconclusive where the replicas take no reference, or measure no drift."""
        self._wait_reference(subject)
        time.sleep(self.step_s)
        self._look(subject, "still")
        instant_s = time.monotonic()
        for step in range(1, STEPS + 1):
            self.demand.share = step / STEPS
            time.sleep(self.step_s)
            self._look(subject, "moving")
        products = [moved_product(product) for product in self.shop.products()]
        fill(subject.cluster, products, total=len(products), progress=False)
        self._look(subject, "mended")
        return {"steps": STEPS, "step_s": self.step_s, "instant_s": instant_s}

    def rollback(self, subject: Rehearsal) -> None:
        """Asks as before."""
        self.demand.share = 0.0

    def _wait_reference(self, subject: Rehearsal) -> None:
        end_s = time.monotonic() + _REFERENCE_S
        while time.monotonic() < end_s:
            try:
                if referenced(scraped(self.metrics)):
                    return
            except OSError as error:
                raise Inconclusive(f"/metrics does not answer: {error}") from error
            time.sleep(0.5)
        raise Inconclusive(f"the replicas took no reference of drift within {_REFERENCE_S:g} s")

    def _look(self, subject: Rehearsal, phase: str) -> None:
        if self.forget:
            for path in (subject.cluster.data_dir / "drift").glob("*.json"):
                path.unlink(missing_ok=True)
        try:
            index = highest_index(scraped(self.metrics))
        except OSError as error:
            raise Inconclusive(f"/metrics does not answer: {error}") from error
        asked = [query for query in self.demand.sample(4 * self.queries) if query.relevant()][: self.queries]
        quality = served_quality(subject.cluster.addresses, asked)
        look = {"phase": phase, "share": round(self.demand.share, 3), "index": index}
        self.records.append(("drift", {**look, **quality.describe()}))


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The moving demand as a value."""
    shop = choose_shop(given.products, given.seed)
    usual = judged(shop.queries, len(shop.queries))
    demand = Demand(usual, [moved_query(query) for query in usual])
    fault = MovingDemand(
        shop,
        demand,
        getattr(given, "metrics", ()),
        step_s=given.step_s,
        queries=given.queries,
        forget=given.without == "measure",
    )

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        addresses, traffic = rehearsal.cluster.addresses, rehearsal.traffic
        reads = DemandReads(addresses, demand, deadline_ms=traffic.read_deadline_ms)
        writes = ClientWrites(
            addresses,
            rehearsal.product_ids,
            deadline_ms=traffic.write_deadline_ms,
            prefix=f"drill-{seed}-{time.monotonic_ns()}",
        )
        streams = [
            Stream("read", poisson_arrivals(traffic.reads_per_s, seed), reads),
            Stream("write", even_arrivals(traffic.writes_per_s), writes),
        ]
        rehearsal.load = RecordedLoad(OpenLoop(streams), journal)
        return rehearsal.load

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        for kind, fields in fault.records:
            journal.write(kind, **fields)
        collect_log(rehearsal, journal)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=0.5),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        fault=fault,
        judge=lambda history: judge_model_drift(history, DriftLimits()),
        collect=collect,
    )


def changes(given: argparse.Namespace) -> Changes:
    """A reference and a window small enough for a drill, and the address of each replica's metrics."""
    given.metrics = free_ports(given.replicas)
    drift = {
        "drift_reference_answers": int(given.reads * given.step_s),
        "drift_window_s": given.step_s,
        "drift_window_answers": 50,
    }

    def plan(before: ClusterPlan) -> ClusterPlan:
        told = zip(NAMES, given.metrics, strict=False)
        own = {name: {"metrics": {"listen": address, **drift}} for name, address in told}
        return replace(before, own_settings={**before.own_settings, **own})

    return Changes(
        settings={"lease": {"ttl_ms": 5000}},
        plan=plan,
        noted={"step_s": given.step_s, "queries": given.queries},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"index {figures['still_index']} while nothing moved; noticed at a share of "
        f"{figures['noticed_share']}, nDCG@10 {figures['noticed_ndcg']} of {figures['ndcg_before']} by then; "
        f"{figures['ndcg_moved']} at the end, {figures['ndcg_mended']} after the remedy"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--step-s", type=positive(float), default=5.0, help="of each step of the demand")
    options.add_argument("--queries", type=positive(int), default=60, help="judged, asked after each step")
    options.set_defaults(replicas=2, products=500, reads=60.0, writes=2.0, deadline_ms=1000.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=("measure",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
