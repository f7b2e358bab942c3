"""What a second worker does for one request with a cross-encoder, and what it costs the others.

    python -m benchmarks.workers [BUNDLE] [--json OUT]

**Question.** One request re-ranks 50 candidates with a cross-encoder of three layers of 384: how long does
it take, on one worker and on two, by the size of a chunk? And how late are short requests beside such ones,
by the size of a chunk?

**Data.** Synthetic products with the bundle's own encoder and texts; the cross-encoder's weights are random,
since time does not depend on them.

**How.** Engines in this process, without gRPC. *Alone*: all settings in turn, one request at a time, so that
what disturbs the machine disturbs all of them; wall time; every answer must equal that of the first setting.
*Beside others*, two workers: for some seconds a setting, long requests (all 50 pairs, 2 s) and short ones
(20 ms: late interaction, which takes about a millisecond) arrive at random moments at given rates, whatever
became of those before; wall time of the short ones from when they were due.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import rankcore
from drills.experiment import quantile
from drills.journal import machine
from drills.rig.cluster import find_bundle
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2, ranking_pb2
from training.speed import SHAPES, random_cross

PRODUCTS, CANDIDATES, SEED = 400, 50, 5
CHUNKS = (1, 2, 4, 8, 16, 32)
WORKERS = (1, 2)
LONG_US, SHORT_US = 2_000_000, 20_000
LONG_PER_S, SHORT_PER_S = 8.0, 40.0
POSITIONS = 128


def deep_bundle(bundle: Path, folder: Path) -> None:
    """Copy a bundle, and give it a cross-encoder of random weights and a plan that reads all candidates."""
    shutil.copytree(bundle, folder)
    (folder / "cross_small").mkdir(exist_ok=True)
    words = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    random_cross(folder / "cross_small" / "model.onnx", *SHAPES["L3H384"], words=words, positions=POSITIONS)
    plans = json.loads((folder / "plans.json").read_text())
    best = max(plan["expected_ndcg"] for plan in plans["plans"])
    deep = {**plans["plans"][-1], "tier": "cross_small", "depth": CANDIDATES, "expected_ndcg": best + 0.01}
    plans["plans"] = [plan for plan in plans["plans"] if not plan["tier"].startswith("cross")] + [deep]
    (folder / "plans.json").write_text(json.dumps(plans))


def serve(bundle: Path, workers: int) -> rankcore.Engine:
    """An engine with `PRODUCTS` synthetic products, whose vectors are all there."""
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=workers)
    generation = engine.empty()
    catalogue = SyntheticCatalogue(PRODUCTS, seed=SEED)
    generation.apply(
        [
            catalogue_pb2.SequencedEvent(
                sequence=number, epoch=1, event=catalogue_pb2.Event(upsert=product)
            ).SerializeToString()
            for number, product in enumerate(catalogue.products(), start=1)
        ]
    )
    while generation.pending() > 0:
        time.sleep(0.05)
    engine.serve(generation)
    return engine


def requests() -> list[bytes]:
    """Queries, each with candidates of its own."""
    catalogue = SyntheticCatalogue(PRODUCTS, seed=SEED)
    ids = [product.product_id for product in catalogue.products()]
    draw = random.Random(SEED)
    return [
        ranking_pb2.RerankRequest(
            query=query.text, product_ids=draw.sample(ids, CANDIDATES), page_size=10
        ).SerializeToString()
        for query in catalogue.queries(40)
    ]


def told(reply: bytes) -> tuple[int, int, list[tuple[str, float]]]:
    """What an answer says but for times."""
    response = ranking_pb2.RerankResponse.FromString(reply)
    results = [(one.product_id, one.score) for one in response.results]
    return response.receipt.tier, response.receipt.depth, results


def alone(engines: dict[int, rankcore.Engine], asked: Sequence[bytes], rounds: int) -> list[dict[str, Any]]:
    """One request at a time. Returns: {"workers", "chunk_pairs", "p50_ms", "p25_ms", "p75_ms"} by setting.

    Raises: ValueError where an answer differs from that of the first setting.
    """
    settings = [(workers, chunk) for chunk in CHUNKS for workers in WORKERS]
    times: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    for number in range(rounds + 3):
        request = asked[number % len(asked)]
        expected = None
        for workers, chunk in settings:
            engine = engines[workers]
            engine.delegate("cross_small", None, chunk)
            started = time.perf_counter()
            reply = engine.rerank(request, LONG_US)
            spent_ms = (time.perf_counter() - started) * 1e3
            answer = told(reply)
            expected = expected or answer
            if answer != expected or answer[:2] != (ranking_pb2.TIER_CROSS_SMALL, CANDIDATES):
                raise ValueError(f"another answer from {workers} workers in chunks of {chunk}: {answer[:2]}")
            # The first rounds warm up.
            if number >= 3:
                times[workers, chunk].append(spent_ms)
    return [
        {
            "workers": workers,
            "chunk_pairs": chunk,
            "p50_ms": round(statistics.median(spent), 2),
            "p25_ms": round(quantile(spent, 0.25), 2),
            "p75_ms": round(quantile(spent, 0.75), 2),
        }
        for (workers, chunk), spent in times.items()
    ]


def beside(engine: rankcore.Engine, asked: Sequence[bytes], chunk: int, seconds: float) -> dict[str, Any]:
    """Short requests beside long ones.

    Returns: of the short ones {"chunk_pairs", "short", "p50_ms", "p95_ms", "p99_ms", "over_20_ms",
    "refused"}, of the long ones {"long", "long_p50_ms", "long_whole"}: how many, and how many of them read
    all their pairs.
    """
    engine.delegate("cross_small", None, chunk)
    draw = random.Random(chunk)
    due: list[tuple[float, int]] = []
    for rate, budget_us in ((LONG_PER_S, LONG_US), (SHORT_PER_S, SHORT_US)):
        at = draw.expovariate(rate)
        while at < seconds:
            due.append((at, budget_us))
            at += draw.expovariate(rate)
    due.sort()

    def ask(number: int, at: float, budget_us: int) -> tuple[int, float | None, int]:
        try:
            reply = engine.rerank(asked[number % len(asked)], budget_us)
        except (rankcore.DeadlineExceeded, rankcore.Overloaded):
            return budget_us, None, 0
        return budget_us, (time.perf_counter() - at) * 1e3, told(reply)[1]

    started = time.perf_counter()
    with ThreadPoolExecutor(32) as pool:
        asking = []
        for number, (at, budget_us) in enumerate(due):
            time.sleep(max(0.0, started + at - time.perf_counter()))
            asking.append(pool.submit(ask, number, started + at, budget_us))
        ended = [one.result() for one in asking]
    short = [ms for budget_us, ms, _ in ended if budget_us == SHORT_US]
    answered = [ms for ms in short if ms is not None]
    long = [(ms, depth) for budget_us, ms, depth in ended if budget_us == LONG_US and ms is not None]
    return {
        "chunk_pairs": chunk,
        "short": len(short),
        "p50_ms": round(quantile(answered, 0.5), 2),
        "p95_ms": round(quantile(answered, 0.95), 2),
        "p99_ms": round(quantile(answered, 0.99), 2),
        "over_20_ms": sum(ms > SHORT_US / 1e3 for ms in answered),
        "refused": len(short) - len(answered),
        "long": len(long),
        "long_p50_ms": round(quantile([ms for ms, _ in long], 0.5), 2),
        "long_whole": sum(depth == CANDIDATES for _, depth in long),
    }


def measure(bundle: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Both measurements. Raises: rankcore.RankError; OSError; ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        deep = Path(folder) / "bundle"
        deep_bundle(bundle, deep)
        engines = {workers: serve(deep, workers) for workers in WORKERS}
        try:
            asked = requests()
            return {
                "machine": machine(),
                "rounds": rounds,
                "seconds": seconds,
                "alone": alone(engines, asked, rounds),
                "beside": [beside(engines[2], asked, chunk, seconds) for chunk in CHUNKS] if seconds else [],
            }
        finally:
            for engine in engines.values():
                engine.close()


def _show(result: dict[str, Any]) -> None:
    # A table that is not read on a terminal is as wide as it needs to be.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    for part in ("alone", "beside"):
        if result[part]:
            table = Table(*result[part][0], title=part)
            for row in result[part]:
                table.add_row(*(str(value) for value in row.values()))
            console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.workers",
        description="One request with a cross-encoder on one worker and on two, by the size of a chunk.",
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", help="folder of a bundle (default: the one that is shipped)"
    )
    parser.add_argument("--rounds", type=int, default=40, help="requests of each setting (default: 40)")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each setting beside others (default: 8)"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.seconds < 0:
        parser.error("--rounds must be at least 1 and --seconds at least 0")
    try:
        result = measure(arguments.bundle or find_bundle(), arguments.rounds, arguments.seconds)
    except (rankcore.RankError, OSError, ValueError) as error:
        print(f"python -m benchmarks.workers: {error}", file=sys.stderr)
        return 2
    _show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
