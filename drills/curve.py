"""The deadline-quality curve: what quality callers get, by their deadline and by the load.

    python -m drills.curve --json --out curve.png

1. One replica is started on a real catalogue (else a synthetic one) and its generation is built.
2. The capacity of the best plan is measured, as in the deadline storm; loads are told in multiples of it.
3. Every cell, one load with one deadline, gets open-loop Poisson arrivals for some seconds, in rounds, each
round in a random order of its own. A cell's first moments are not counted: they belong to the cell before.
4. A request counts from its intended moment. What is late or refused is worth 0.

Served quality is a share: what all requests of a cell got, by what the best plan would have given them. Where
judged queries that no model was trained on are at hand, both are measured nDCG@10 on these queries; else, and
beside it, they are what the receipts say the executed plans are worth. A cell's interval is the least and the
most of its rounds: it tells of the machine, not of the choice of queries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.experiment import Inconclusive, Verdict
from drills.journal import machine, write_result
from drills.outcome import guarded, machine_options, parser, positive, run_folder, say
from drills.rig.capacity import (
    CALIBRATION_DEADLINE_MS,
    Capacity,
    measure_capacity,
    plan_beside_generator,
)
from drills.rig.cluster import Cluster, ClusterPlan, find_bundle
from drills.rig.load import (
    LATE_AFTER_S,
    OK,
    OpenLoop,
    Sample,
    SearchFlood,
    Stream,
    closed_loop,
    decode,
    poisson_arrivals,
)
from drills.rig.shop import Query, Shop, choose_shop, fill, ndcg_at_10, search_requests

NAME = "curve"
DESCRIPTION = "what quality callers get, by their deadline and by the load"
LOADS = (0.2, 0.8, 1.0, 2.0, 5.0, 10.0)
DEADLINES_MS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
ROUNDS = 3
SECONDS = 1.5
LEAD_S = 0.25
"""The planner's price and the queue still tell of the cell before; what is intended then is not counted."""
ENCODE_BUDGET_S = 60.0
"""Of a large catalogue only so many products are loaded as the machine encodes in this time."""
REFERENCE_S = 30.0
"""For the best plan's own answers to the judged queries."""
REFERENCE_TRIES = 3
REQUESTS_MIN = 40
STRETCH_MAX = 4.0
"""A cell of few requests lasts longer, up to this many times, until it has about REQUESTS_MIN."""
CALM_LOAD = 0.8
SPREAD_MAX = 0.25
"""Up to CALM_LOAD, shares answered in time that differ more than this between rounds are the machine's
doing."""
LATE_SHARE = 0.05
"""Where more requests than this left late, the generator offered less steadily than the cell says."""
PICTURES = (".png", ".svg", ".pdf")
SAY_EVERY_S = 15.0
EMPTY: dict[str, Any] = {"capacity_per_s": None, "measured": None, "cells": []}


@dataclass(frozen=True)
class Cell:
    """One point of the curve. load: times the capacity of the best plan."""

    load: float
    deadline_ms: float


@dataclass(frozen=True)
class Grid:
    """What is measured: every load with every deadline, `rounds` times, about `seconds` each."""

    loads: tuple[float, ...] = LOADS
    deadlines_ms: tuple[float, ...] = DEADLINES_MS
    seconds: float = SECONDS
    rounds: int = ROUNDS
    seed: int = 1

    def cells(self) -> list[Cell]:
        """Loads from light to heavy, each with its deadlines from short to long."""
        return [Cell(load, deadline_ms) for load in self.loads for deadline_ms in self.deadlines_ms]

    def schedule(self) -> list[tuple[int, Cell]]:
        """(round, cell) in the order of measuring: a round holds every cell once, in a random order of its
        own, so that a slow minute of the machine does not fall on one cell alone."""
        generator = random.Random(self.seed)
        planned = []
        for number in range(self.rounds):
            cells = self.cells()
            generator.shuffle(cells)
            planned += [(number, cell) for cell in cells]
        return planned

    def counted_s(self, load: float, capacity_per_s: float) -> float:
        """How long a cell of this load is measured, its lead aside."""
        wanted_s = REQUESTS_MIN / (load * capacity_per_s)
        return min(max(self.seconds, wanted_s), STRETCH_MAX * self.seconds)


@dataclass(frozen=True)
class Workload:
    """The queries of a run, sent in turn.

    best_ndcg: measured nDCG@10 of the best plan's answer to each of them; empty: they are not judged.
    """

    queries: tuple[Query, ...]
    best_ndcg: tuple[float, ...] = ()

    def turned(self, places: int) -> Workload:
        """The same, beginning elsewhere."""
        return Workload(
            self.queries[places:] + self.queries[:places], self.best_ndcg[places:] + self.best_ndcg[:places]
        )

    def requests(self) -> list[bytes]:
        """The searches, serialised."""
        return search_requests(self.queries)


@dataclass(frozen=True)
class Observation:
    """What became of the requests of one cell in one round.

    expected: sum over the answers in time of the receipt's expected nDCG, as a share of the best plan's.
    measured: sum over the answers in time of their nDCG@10. best: sum over all requests offered of what the
    best plan's answer would have; both None where nothing is judged. plans: of the answers in time.
    missed: why the others were not. sent_late: requests that left late, answered or not.
    """

    offered: int
    in_time: int
    expected: float
    measured: float | None
    best: float | None
    plans: Counter[str]
    missed: Counter[str]
    sent_late: int

    @property
    def in_time_share(self) -> float | None:
        """Of all offered; None where nothing was."""
        return self.in_time / self.offered if self.offered else None

    @property
    def expected_in_time(self) -> float | None:
        """Mean worth of an answer in time, by the receipts; None where there was none."""
        return self.expected / self.in_time if self.in_time else None

    @property
    def expected_quality(self) -> float | None:
        """Served quality by the receipts; None where nothing was offered."""
        return self.expected / self.offered if self.offered else None

    @property
    def measured_quality(self) -> float | None:
        """Served quality as measured; None where nothing is judged or the best plan finds nothing."""
        return self.measured / self.best if self.measured is not None and self.best else None

    @property
    def ndcg_at_10(self) -> float | None:
        """Mean measured nDCG@10 over all offered; None where nothing is judged."""
        return self.measured / self.offered if self.measured is not None and self.offered else None


def observe(samples: Sequence[Sample], deadline_ms: float, workload: Workload) -> Observation:
    """Counts decoded samples. An answer after its deadline is worth as much as none."""
    plans: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    expected = measured = best = 0.0
    for sample in samples:
        place = sample.index % len(workload.queries)
        if workload.best_ndcg:
            best += workload.best_ndcg[place]
        if sample.status != OK:
            missed[sample.status] += 1
        elif sample.latency_s * 1000.0 > deadline_ms:
            missed["late"] += 1
        else:
            plans[plan_name(sample.fields["tier"], sample.fields["depth"])] += 1
            expected += sample.fields["expected_ndcg"]
            if workload.best_ndcg:
                gains = workload.queries[place].gains
                measured += ndcg_at_10(sample.fields["product_ids"], gains) or 0.0
    return Observation(
        offered=len(samples),
        in_time=plans.total(),
        expected=expected,
        measured=measured if workload.best_ndcg else None,
        best=best if workload.best_ndcg else None,
        plans=plans,
        missed=missed,
        sent_late=sum(sample.sent_s - sample.intended_s > LATE_AFTER_S for sample in samples),
    )


def plan_name(tier: str, depth: int) -> str:
    """A plan in one word: "late@50", or "lexical" where nothing is re-ranked."""
    return f"{tier}@{depth}" if depth else tier


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, least and most of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "median": round(statistics.median(known), 4),
        "min": round(min(known), 4),
        "max": round(max(known), 4),
    }


def summarise(cell: Cell, rate_per_s: float, rounds: Sequence[Observation]) -> dict[str, Any]:
    """A cell over its rounds, as `--json` prints it. Counts are sums, shares are {median, min, max}."""
    offered = sum(one.offered for one in rounds)
    plans: Counter[str] = sum((one.plans for one in rounds), Counter())
    missed: Counter[str] = sum((one.missed for one in rounds), Counter())
    return {
        "load": cell.load,
        "deadline_ms": cell.deadline_ms,
        "rate_per_s": round(rate_per_s, 1),
        "offered": offered,
        "in_time_share": spread(one.in_time_share for one in rounds),
        "expected_in_time": spread(one.expected_in_time for one in rounds),
        "expected_quality": spread(one.expected_quality for one in rounds),
        "measured_quality": spread(one.measured_quality for one in rounds),
        "ndcg_at_10": spread(one.ndcg_at_10 for one in rounds),
        "plans": {name: round(count / plans.total(), 4) for name, count in plans.most_common()},
        "missed": dict(missed.most_common()),
        "sent_late_share": round(sum(one.sent_late for one in rounds) / offered, 4) if offered else 0.0,
    }


def noise(cells: Sequence[Mapping[str, Any]]) -> str | None:
    """Why this machine was too noisy to say anything; None where it was not.

    Far below the capacity only the deadline decides, and the deadline is the same in every round.
    """
    unsteady = []
    for cell in cells:
        share = cell["in_time_share"]
        if cell["load"] <= CALM_LOAD and share is not None and share["max"] - share["min"] > SPREAD_MAX:
            unsteady.append(cell)
    if not unsteady:
        return None
    worst = max(unsteady, key=lambda cell: cell["in_time_share"]["max"] - cell["in_time_share"]["min"])
    share = worst["in_time_share"]
    others = f"; so it is in {len(unsteady) - 1} more cells" if len(unsteady) > 1 else ""
    return (
        f"this machine was too noisy: at {worst['load']:g} times the capacity and {worst['deadline_ms']:g} "
        f"ms, one round had {share['min']:.0%} answered in time and another {share['max']:.0%}{others}. "
        "End other programs, or measure longer with --seconds"
    )


def table(title: str, result: Mapping[str, Any], show: Callable[[Mapping[str, Any]], str]) -> str:
    """Loads down, deadlines across, one entry a cell, columns aligned."""
    found = {(cell["load"], cell["deadline_ms"]): cell for cell in result["cells"]}
    rows = [["load", *(f"{deadline_ms:g} ms" for deadline_ms in result["deadlines_ms"])]]
    for load in result["loads"]:
        entries = (found.get((load, deadline_ms)) for deadline_ms in result["deadlines_ms"])
        rows.append([f"{load:g}", *("-" if cell is None else show(cell) for cell in entries)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def shown_share(share: Mapping[str, float] | None) -> str:
    """A median with its interval: ".97 .95-.98"; "-" where nothing is known."""
    if share is None:
        return "-"
    median, least, most = (f"{share[key]:.2f}".removeprefix("0") for key in ("median", "min", "max"))
    return f"{median} {least}-{most}"


def shown_plan(cell: Mapping[str, Any]) -> str:
    """The plan that was executed most, with its share where it was not the only one."""
    for name, share in cell["plans"].items():
        return str(name) if share > 0.995 else f"{name} {share:.0%}"
    return "-"


def served(cell: Mapping[str, Any]) -> dict[str, float] | None:
    """The served quality that is known best: measured, else expected."""
    found: dict[str, float] | None = cell["measured_quality"] or cell["expected_quality"]
    return found


def duration(seconds: float) -> str:
    """ "2 min 40 s", rounded to what matters to somebody who waits."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    whole = round(seconds / 10) * 10
    return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"


class Clock:
    """Tells now and then how much is left. planned_s: of every step, in order."""

    def __init__(self, planned_s: Sequence[float]) -> None:
        self._planned_s = planned_s
        self._start_s = self._said_s = time.monotonic()

    def step(self, done: int) -> None:
        """`done` steps lie behind."""
        now_s = time.monotonic()
        if now_s - self._said_s < SAY_EVERY_S or not done:
            return
        self._said_s = now_s
        pace = (now_s - self._start_s) / sum(self._planned_s[:done])
        left_s = pace * sum(self._planned_s[done:])
        say(f"{NAME}: {done} of {len(self._planned_s)} cells, about {duration(left_s)} left")


def judged_queries(shop: Shop, loaded: set[str]) -> tuple[Query, ...]:
    """The queries that no model was trained on and whose relevant products, one at least, are all loaded."""
    return tuple(
        query for query in shop.queries if query.held_back and query.relevant() and query.relevant() <= loaded
    )


def with_reference(cluster: Cluster, workload: Workload) -> Workload:
    """Asks every query alone and without haste, and keeps those that the best plan answered in full.

    Raises: Inconclusive where it did not answer nearly all of them.
    """
    found: dict[int, float] = {}
    outcomes: Counter[str] = Counter()
    end_s = time.monotonic() + REFERENCE_S
    for _ in range(REFERENCE_TRIES):
        missing = [place for place in range(len(workload.queries)) if place not in found]
        if not missing:
            break
        queries = [workload.queries[place] for place in missing]
        caller = SearchFlood(cluster.addresses, search_requests(queries), deadline_ms=CALIBRATION_DEADLINE_MS)
        samples = asyncio.run(
            closed_loop(caller, concurrency=1, duration_s=end_s - time.monotonic(), requests_max=len(queries))
        )
        decode(samples, products=True)
        for sample in samples:
            outcome = sample.fields.get("reason", sample.status)
            outcomes[outcome] += 1
            if outcome == "best":
                gains = queries[sample.index].gains
                found[missing[sample.index]] = ndcg_at_10(sample.fields["product_ids"], gains) or 0.0
    if len(found) < 0.9 * len(workload.queries):
        raise Inconclusive(
            f"the best plan answered only {len(found)} of {len(workload.queries)} judged queries in full, "
            f"each asked alone with {CALIBRATION_DEADLINE_MS:.0f} ms ({dict(outcomes)}); end other programs, "
            "or take a lighter bundle"
        )
    places = sorted(found)
    return Workload(
        tuple(workload.queries[place] for place in places), tuple(found[place] for place in places)
    )


def measure(
    cluster: Cluster, workload: Workload, cell: Cell, *, rate_per_s: float, seconds: float, seed: int
) -> Observation:
    """Offers one cell's load and counts what was intended after its lead."""
    caller = SearchFlood(cluster.addresses, workload.requests(), deadline_ms=cell.deadline_ms)
    loop = OpenLoop([Stream("read", poisson_arrivals(rate_per_s, seed), caller)], duration_s=LEAD_S + seconds)
    loop.start()
    counted = [sample for sample in loop.join() if sample.intended_s >= loop.start_s + LEAD_S]
    decode(counted, products=bool(workload.best_ndcg))
    return observe(counted, cell.deadline_ms, workload)


def measure_grid(
    cluster: Cluster, workload: Workload, grid: Grid, capacity: Capacity
) -> list[dict[str, Any]]:
    """Every cell in every round; returns the cells' summaries, in the grid's order."""
    planned = grid.schedule()
    # A cell ends with its last deadline; the rest is connecting and reading the answers.
    lengths_s = [
        LEAD_S + grid.counted_s(cell.load, capacity.per_s) + cell.deadline_ms / 1000.0 + 0.1
        for _, cell in planned
    ]
    say(f"{NAME}: {len(planned)} cells, about {duration(sum(lengths_s))}")
    clock = Clock(lengths_s)
    seeds = random.Random(grid.seed)
    rounds: dict[Cell, list[Observation]] = {cell: [] for cell in grid.cells()}
    for done, (number, cell) in enumerate(planned):
        clock.step(done)
        rounds[cell].append(
            measure(
                cluster,
                # Short cells do not come round; each round begins with other queries.
                workload.turned(number * len(workload.queries) // grid.rounds),
                cell,
                rate_per_s=cell.load * capacity.per_s,
                seconds=grid.counted_s(cell.load, capacity.per_s),
                seed=seeds.getrandbits(32),
            )
        )
    return [summarise(cell, cell.load * capacity.per_s, found) for cell, found in rounds.items()]


def run(
    *,
    folder: Path,
    shop: Shop,
    plan: ClusterPlan,
    grid: Grid,
    concurrency: int,
    whole: bool = False,
    progress: bool = True,
    keep_data: bool = False,
) -> dict[str, Any]:
    """The whole measurement on a fresh replica; returns the object that `--json` prints.

    concurrency: searches in flight while the capacity is measured. whole: load every product, however long
    that takes. Raises: Inconclusive, ClusterError.
    """
    cluster = Cluster(plan, folder / "cluster")
    try:
        with cluster:
            say(f"{NAME}: {shop.note}")
            cluster.start()
            products = shop.judged_first()
            loaded = fill(
                cluster,
                products,
                total=shop.expected_products,
                progress=progress,
                within_s=None if whole else ENCODE_BUDGET_S,
            )
            # Fresh from a build a busy machine may take its time.
            state = cluster.status(cluster.replicas[0], timeout_s=10.0)
            judged = judged_queries(shop, {product.product_id for product in products[: loaded.products]})
            queries = list(judged or shop.queries)
            random.Random(grid.seed).shuffle(queries)
            workload = Workload(tuple(queries))
            capacity = measure_capacity(cluster, workload.requests(), concurrency=concurrency, duration_s=3.0)
            best = plan_name(capacity.tier, capacity.depth)
            say(
                f"{NAME}: {loaded.products} of {loaded.offered} products; best plan {best}: "
                f"{capacity.per_s:.0f} searches/s"
            )
            if judged:
                workload = with_reference(cluster, workload)
                say(f"{NAME}: quality is measured on {len(workload.queries)} queries no model was trained on")
            else:
                say(
                    f"{NAME}: only the expected quality is known: no judged queries are at hand that no "
                    "model was trained on; let MUSTER_DATA name a folder that holds esci/ or chorus/"
                )
            cells = measure_grid(cluster, workload, grid, capacity)
    finally:
        if not keep_data:
            cluster.remove_data()
    reason = noise(cells)
    known = len(workload.best_ndcg)
    return {
        "bench": NAME,
        "verdict": "measured" if reason is None else str(Verdict.INCONCLUSIVE),
        **({} if reason is None else {"reason": reason}),
        "bundle": state.bundle_id,
        "catalogue": shop.name,
        "products": loaded.products,
        "queries": len(workload.queries),
        "capacity_per_s": round(capacity.per_s, 1),
        "best_plan": {
            "plan": best,
            "p50_ms": capacity.p50_ms,
            "expected_ndcg": round(max((one.expected_ndcg for one in state.plans), default=0.0), 4),
            "measured_ndcg": round(sum(workload.best_ndcg) / known, 4) if known else None,
        },
        "measured": bool(known),
        "loads": list(grid.loads),
        "deadlines_ms": list(grid.deadlines_ms),
        "seconds": grid.seconds,
        "rounds": grid.rounds,
        "seed": grid.seed,
        "machine": machine(),
        "cells": cells,
    }


def report(result: Mapping[str, Any]) -> str:
    """The result for people."""
    best = result["best_plan"]
    if result["measured"]:
        how = (
            f"measured on {result['queries']} queries no model was trained on; "
            f"1 is the best plan's nDCG@10 of {best['measured_ndcg']:.3f}"
        )
    else:
        how = (
            "expected, as the receipts tell; 1 is what the best plan is expected to give; measured it was "
            "not, for want of judged queries that no model was trained on"
        )
    interval = f"median of {result['rounds']} rounds, least-most" if result["rounds"] > 1 else "one round"
    parts = [
        f"{result['bundle']} on {result['products']} products ({result['catalogue']}); load 1 is "
        f"{result['capacity_per_s']:g} searches/s, what the best plan ({best['plan']}) can do",
        table(
            f"served quality, late or refused = 0 ({interval})\n{how}",
            result,
            lambda cell: shown_share(served(cell)),
        ),
        table("answered in time", result, lambda cell: shown_share(cell["in_time_share"])),
        table("plan executed most", result, shown_plan),
    ]
    late = [cell for cell in result["cells"] if cell["sent_late_share"] > LATE_SHARE]
    if late:
        named = ", ".join(
            f"{cell['load']:g} x {cell['deadline_ms']:g} ms {cell['sent_late_share']:.0%}" for cell in late
        )
        parts.append(
            f"the load generator was late itself, which counts against the service, in these cells (share of "
            f"the requests sent more than {LATE_AFTER_S * 1000:.0f} ms late): {named}"
        )
    return "\n\n".join(parts)


def numbers(what: str, unit: str = "") -> Callable[[str], tuple[float, ...]]:
    """An argparse type: numbers above 0 joined by commas, perhaps with their unit; ascending, each once."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            found = {float(part.strip().removesuffix(unit)) for part in text.split(",")}
        except ValueError:
            found = set()
        if not found or not all(value > 0 and math.isfinite(value) for value in found):
            raise argparse.ArgumentTypeError(
                f"write {what} as numbers above 0 joined by commas, like 1,5; not {text!r}"
            )
        return tuple(sorted(found))

    return parse


def command_line() -> argparse.ArgumentParser:
    """The options."""
    options = parser(NAME, DESCRIPTION)
    joined_loads = ",".join(f"{load:g}" for load in LOADS)
    joined_deadlines = ",".join(f"{deadline_ms:g}" for deadline_ms in DEADLINES_MS)
    options.add_argument(
        "--loads",
        type=numbers("loads"),
        default=LOADS,
        metavar="N,N",
        help=f"times the capacity of the best plan (default {joined_loads})",
    )
    options.add_argument(
        "--deadlines",
        type=numbers("deadlines in ms", "ms"),
        default=DEADLINES_MS,
        metavar="MS,MS",
        help=f"in milliseconds (default {joined_deadlines})",
    )
    options.add_argument(
        "--seconds", type=positive(float), default=SECONDS, help=f"of a cell in a round (default {SECONDS:g})"
    )
    options.add_argument(
        "--rounds", type=positive(int), default=ROUNDS, help=f"of all cells (default {ROUNDS})"
    )
    options.add_argument(
        "--out", type=Path, default=None, metavar="FILE.png", help="the picture (default: in the record)"
    )
    machine_options(options)
    options.add_argument(
        "--whole",
        action="store_true",
        help=f"load the whole catalogue (default: what is encoded in about {ENCODE_BUDGET_S:.0f} s)",
    )
    return options


def main(arguments: Sequence[str]) -> int:
    """Measures from a command line; returns 0, or 20 where the machine was too noisy to say."""
    options = command_line()
    given = options.parse_args(list(arguments))
    if given.seed < 0:
        options.error(f"argument --seed: write a number from 0, not {given.seed}")
    if not math.isfinite(given.seconds):
        options.error("argument --seconds: write a finite number")
    if given.out is not None and given.out.suffix.lower() not in PICTURES:
        options.error(f"argument --out: name a picture ({', '.join(PICTURES)}), not {str(given.out)!r}")
    try:
        bundle = find_bundle(given.bundle)
    except Inconclusive as error:
        options.error(f"argument --bundle: {error}")
    try:
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
        folder = run_folder(given.journal, NAME)
    except OSError as error:
        options.error(f"{error.filename} cannot be made ({error.strerror}); name another --out or --journal")

    def body() -> int:
        plan, concurrency = plan_beside_generator(bundle, given, replicas=1)
        result = run(
            folder=folder,
            shop=choose_shop(given.products, given.seed),
            plan=plan,
            grid=Grid(given.loads, given.deadlines, given.seconds, given.rounds, given.seed),
            concurrency=concurrency,
            whole=given.whole,
            keep_data=given.keep_data,
        )
        # Written before it is drawn: minutes of measuring must not be lost to a picture.
        write_result(folder, result)
        # Only here: drawing must not take the cores from the replica.
        from drills.plot import quality_curve

        picture = quality_curve(result, given.out or folder / "curve.png")
        if given.json:
            print(json.dumps({**result, "plot": str(picture)}), flush=True)
        else:
            print(f"{report(result)}\n\npicture: {picture}\nrecord: {folder}")
            if "reason" in result:
                print(f"{NAME}: {result['verdict']}\n  - {result['reason']}", flush=True)
        return 0 if "reason" not in result else Verdict.INCONCLUSIVE.exit_code

    return guarded(NAME, body, as_json=given.json, empty=EMPTY, kind="bench")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
