"""Searches a second that the core answers on its workers: `python -m benchmarks.throughput --json OUT`.

Question: what does each tier sustain through admission, queue and workers, with one worker and with one for
each core, when there is always work?

Data: the synthetic catalogue and its queries, as in `benchmarks.growth`; vectors are drawn around a sample of
encoded products, so read rates, not quality.

How: one process. For each tier a bundle whose only plan is that tier's deepest, and an engine of its own;
callers in threads keep one search more in flight than there are workers (a closed loop): a longer queue would
raise the price and with it cheaper answers. Only answers by the tier count. Tiers and numbers of workers take
turns, round by round; given are the medians of the rounds, with the least and the most. No gRPC: what a call
costs on the way to the core and back is measured by `benchmarks.profile`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.growth import QUERIES, SAMPLE, build, fill, tell
from benchmarks.service import Services, commit, one_plan_bundle
from drills.journal import machine
from drills.rig.cluster import find_bundle
from drills.rig.load import tier_name
from muster.products.synthetic import SyntheticCatalogue
from muster.v1.ranking_pb2 import SearchRequest, SearchResponse

TIERS = ("lexical", "hybrid", "late")
DEADLINE_US = 5_000_000
"""Far from what a full queue makes anybody wait."""


@dataclass
class Cell:
    """One tier with so many workers. One entry a round: searches a second, core-milliseconds a search."""

    tier: str
    workers: int
    per_s: list[float] = field(default_factory=list)
    core_ms: list[float] = field(default_factory=list)
    executed: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """For people and machines: median, least and most of the rounds."""
        return {
            "tier": self.tier,
            "workers": self.workers,
            "per_s": round(statistics.median(self.per_s), 1),
            "per_s_min": round(min(self.per_s), 1),
            "per_s_max": round(max(self.per_s), 1),
            "core_ms": round(statistics.median(self.core_ms), 3),
            "executed": dict(self.executed),
        }


def saturate(engine: Any, requests: Sequence[bytes], *, callers: int, seconds: float, cell: Cell) -> None:
    """Keep `callers` searches in flight for `seconds`, and note the rate of those by the cell's tier."""
    stop_at = time.monotonic() + seconds

    def call(number: int) -> Counter[str]:
        done: Counter[str] = Counter()
        for request in itertools.cycle([*requests[number:], *requests[:number]]):
            answer = SearchResponse.FromString(engine.search(request, DEADLINE_US))
            done[tier_name(answer.receipt.tier)] += 1
            if time.monotonic() >= stop_at:
                break
        return done

    wall_s, cpu_s = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(max_workers=callers) as pool:
        done = sum(pool.map(call, range(callers)), Counter())
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    cell.per_s.append(done[cell.tier] / wall_s)
    cell.core_ms.append(1000 * cpu_s / done.total())
    cell.executed.update(done)


def run(
    products: int,
    *,
    bundle: Path,
    folder: Path,
    tiers: Sequence[str],
    sample: int,
    seed: int,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Build for every tier, and measure it with one worker and with one a core."""
    import rankcore

    catalogue = SyntheticCatalogue(products, seed)
    fill(folder / "catalogue.sqlite3", catalogue, products)
    requests = [SearchRequest(query=query.text).SerializeToString() for query in catalogue.queries(QUERIES)]
    cores = len(os.sched_getaffinity(0))
    deepest = {plan["tier"]: plan for plan in Services.plans_of(bundle)}
    cells, engines = [], []
    for tier in tiers:
        if tier not in deepest:
            raise SystemExit(
                f"throughput: the bundle has no plan of tier {tier}; it has {', '.join(deepest)}"
            )
        one = one_plan_bundle(bundle, deepest[tier], folder / tier)
        # A generation serves the bundle that it was built for and no other.
        generation = build(
            {
                "bundle": str(one),
                "store": str(folder / "catalogue.sqlite3"),
                "generations": str(folder / f"generations-{tier}"),
                "threads": 0,
                "recall_min": 0.98,
                "keep": 2,
                "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            },
            sample,
        )["folder"]
        for workers in sorted({1, cores}):
            engine = rankcore.Engine(str(one), runtime_library=rankcore.runtime_library(), workers=workers)
            engine.serve(engine.open(generation, None))
            engine.warm_up([query.text for query in catalogue.queries(8)])
            cells.append(Cell(tier, workers))
            engines.append(engine)
    for number in range(rounds + 1):
        for cell, engine in zip(cells, engines, strict=True):
            # The first round only warms up.
            noted = cell if number else Cell(cell.tier, cell.workers)
            saturate(engine, requests, callers=cell.workers + 1, seconds=seconds, cell=noted)
        tell(f"throughput: round {number} of {rounds}")
    for engine in engines:
        engine.close()
    return {
        "bundle": bundle.name,
        "products": products,
        "vectors": f"drawn around {sample}",
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine(),
        "commit": commit(),
        "cells": [cell.summary() for cell in cells],
    }


def table(result: dict[str, Any]) -> str:
    """The result as a table of Markdown."""
    lines = ["| tier | workers | searches a second (least, most) | core-ms a search |", "|---|---|---|---|"]
    for cell in result["cells"]:
        rates = "{per_s:,.0f} ({per_s_min:,.0f}, {per_s_max:,.0f})".format_map(cell)
        lines.append(f"| {cell['tier']} | {cell['workers']} | {rates} | {cell['core_ms']:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0: measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--products", type=int, default=26_000)
    parser.add_argument("--tier", action="append", help=f"several times (default {', '.join(TIERS)})")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="products that are encoded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a cell in a round")
    parser.add_argument("--bundle", type=Path, default=None, help="default models/muster-base")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="result file")
    parsed = parser.parse_args(arguments)
    if min(parsed.products, parsed.sample, parsed.rounds) < 1 or parsed.seconds <= 0:
        parser.error("--products, --sample, --rounds and --seconds must be above 0")
    with tempfile.TemporaryDirectory(prefix="muster-throughput-") as folder:
        result = run(
            parsed.products,
            bundle=find_bundle(parsed.bundle),
            folder=Path(folder),
            tiers=parsed.tier or TIERS,
            sample=parsed.sample,
            seed=parsed.seed,
            rounds=parsed.rounds,
            seconds=parsed.seconds,
        )
    if parsed.json:
        parsed.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
