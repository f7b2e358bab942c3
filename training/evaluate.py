"""Evaluate: nDCG@10 of every plan of a bundle, driven through the engine that serves.

Two settings: "catalogue" ranks all products of the folder, "judged" orders a query's judged products alone.
Gains are linear, unjudged products count 0, and ir_measures computes. Beside the plans stand the judged
products in random order (in "catalogue": any products), BM25, the dense vectors and the fusion of both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.products import Judgements, read_judgements, read_products
from training import options
from training.engine import Catalogue, open_catalogue
from training.measure import best_first, estimate, ndcg_by_query, random_ndcg, whole_gains

SETTINGS = ("catalogue", "judged")
_COLUMNS = {"bm25": "bm25", "dense": "dense", "fusion": "fused"}
_RUN_RESULTS = 100
_WARM_UP_QUERIES = 5

Rankings = dict[str, list[tuple[str, float]]]
"""Query to (product id, score), best first."""


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    split: str | None = "dev",
    queries: str | Path | None = None,
    labels: str | Path | None = None,
    mapping: str | None = None,
    runs: str | Path | None = None,
    cache: Path | None = None,
    seed: int = 20260401,
    rounds: int = 2000,
    threads: int = 0,
) -> dict[str, Any]:
    """Measure a bundle.

    data: folder with products, queries.parquet and labels.parquet. split: of the queries, None for all.
    queries, labels: other files than those. mapping: column map of the products; None: recognised. runs:
    folder for one TREC run file a plan and setting, and the judgements as qrels.txt. seed, rounds: of the
    bootstrap.
    Returns: {"bundle", "split", "queries", "products", "tiers": [{"tier", "depth", "catalogue": {"ndcg10",
    "low", "high"}, "judged": the same, "cost_ms_p50"}], "baselines": {name: {"catalogue", "judged"}}}.
    Raises: BundleError; ProductError; rankcore.RankError; ValueError where no query has a relevant product.
    """
    judgements = read_judgements(data, split, queries=queries, labels=labels)
    scorable = judgements.scorable()
    if not scorable:
        raise ValueError(f"no query of the split {split!r} has a relevant product")
    products = list(read_products(data, mapping))
    known = {product.product_id for product in products}
    judged = {query: [key for key in judgements.gains[query] if key in known] for query in scorable}
    gains = {query: dict(judgements.gains[query]) for query in scorable}
    folder = None if runs is None else Path(runs)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_qrels(folder / "qrels.txt", gains)

    def measured(name: str, rankings: Mapping[str, Rankings]) -> dict[str, dict[str, float]]:
        found = {}
        for setting, of_setting in rankings.items():
            if folder is not None:
                _write_run(folder / f"{name}.{setting}.run", name, of_setting)
            orders = {query: [key for key, _ in ranking] for query, ranking in of_setting.items()}
            values = ndcg_by_query(gains, orders)
            found[setting] = estimate(values, seed=seed, rounds=rounds).rounded()
        return found

    with open_catalogue(bundle, products, cache=cache, threads=threads) as catalogue:
        plans = catalogue.bundle.plans()
        tiers = []
        for plan in tqdm(plans, desc="plans", mininterval=2, file=sys.stderr):
            tier, depth, width = plan["tier"], int(plan["depth"]), int(plan["width"])
            for query in scorable[:_WARM_UP_QUERIES]:
                catalogue.search(judgements.queries[query], tier, depth, width)
            times = []
            rankings: dict[str, Rankings] = {setting: {} for setting in SETTINGS}
            for query in scorable:
                started = time.perf_counter()
                rankings["catalogue"][query] = catalogue.search(
                    judgements.queries[query], tier, depth, width, results=_RUN_RESULTS
                )
                times.append((time.perf_counter() - started) * 1e3)
                rankings["judged"][query] = (
                    catalogue.rerank(judgements.queries[query], judged[query], tier, depth)
                    if judged[query]
                    else []
                )
            name = tier if depth == 0 else f"{tier}-{depth}"
            tiers.append(
                {
                    "tier": tier,
                    "depth": depth,
                    **measured(name, rankings),
                    "cost_ms_p50": round(statistics.median(times), 3),
                }
            )
        untrained: dict[str, dict[str, dict[str, float]]] = {
            "random": _random(
                judgements, scorable, [product.product_id for product in products], seed, rounds
            )
        }
        for name, rankings in _untrained(catalogue, judgements, judged, int(plans[0]["width"])).items():
            untrained[name] = measured(name, rankings)
        return {
            "bundle": catalogue.bundle.bundle_id,
            "split": split,
            "queries": len(scorable),
            "products": len(products),
            "tiers": tiers,
            "baselines": untrained,
        }


def _untrained(
    catalogue: Catalogue, judgements: Judgements, judged: Mapping[str, Sequence[str]], width: int
) -> dict[str, dict[str, Rankings]]:
    found: dict[str, dict[str, Rankings]] = {name: {setting: {} for setting in SETTINGS} for name in _COLUMNS}
    for query, keys in judged.items():
        for setting in SETTINGS:
            if setting == "judged" and not keys:
                continue
            signals = catalogue.signals(
                judgements.queries[query],
                "hybrid",
                product_ids=keys if setting == "judged" else None,
                width=width,
            )
            for name in _COLUMNS:
                scores = signals.column(_COLUMNS[name])
                order = best_first(scores)
                if name == "bm25" and setting == "catalogue":
                    retrieved = signals.column("bm25_rank") > 0
                    order = order[retrieved[order]]
                found[name][setting][query] = [
                    (signals.product_ids[at], float(np.nan_to_num(scores[at], nan=-1.0)))
                    for at in order[:_RUN_RESULTS]
                ]
    return found


def _random(
    judgements: Judgements, scorable: Sequence[str], product_ids: Sequence[str], seed: int, rounds: int
) -> dict[str, dict[str, float]]:
    gains = {query: dict(judgements.gains[query]) for query in scorable}
    random = np.random.default_rng(seed)
    drawn = {
        query: [product_ids[at] for at in random.integers(len(product_ids), size=10)] for query in scorable
    }
    return {
        "catalogue": estimate(ndcg_by_query(gains, drawn), seed=seed, rounds=rounds).rounded(),
        "judged": estimate(random_ndcg(gains, seed=seed), seed=seed, rounds=rounds).rounded(),
    }


def _write_run(path: Path, name: str, rankings: Rankings) -> None:
    """TREC run file. Scores are written as falling whole numbers: tools sort by score and break ties."""
    with path.open("w", encoding="utf-8") as file:
        for query, ranking in rankings.items():
            for rank, (product, _) in enumerate(ranking, start=1):
                file.write(f"{query} Q0 {product} {rank} {len(ranking) - rank + 1} {name}\n")


def _write_qrels(path: Path, gains: Mapping[str, Mapping[str, float]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for query, judged in whole_gains(gains).items():
            for product, gain in judged.items():
                file.write(f"{query} 0 {product} {gain}\n")


def _show(result: Mapping[str, Any]) -> None:
    table = Table(title=f"{result['bundle']}: {result['queries']} queries, {result['products']} products")
    for column in ("ranking", "whole catalogue", "judged only", "ms"):
        table.add_column(column, justify="left" if column == "ranking" else "right")

    def cell(value: Mapping[str, float]) -> str:
        return f"{value['ndcg10']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

    for name, row in result["baselines"].items():
        table.add_row(f"({name})", cell(row["catalogue"]), cell(row["judged"]), "")
    for row in result["tiers"]:
        name = row["tier"] if row["depth"] == 0 else f"{row['tier']} @ {row['depth']}"
        table.add_row(name, cell(row["catalogue"]), cell(row["judged"]), f"{row['cost_ms_p50']:.1f}")
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `muster evaluate`. Returns the exit code: 0 done, 2 bad input."""
    task, argv = options.asked_task(sys.argv[1:] if argv is None else argv)
    if task == options.RECOMMEND:
        # Loaded here: search needs none of it.
        from training.recommend.evaluate import main as recommend

        return recommend(argv)
    program = "muster evaluate"
    parser = options.parser(
        program,
        "nDCG@10 per tier and depth, with intervals. --task recommend measures recommendation instead.",
    )
    parser.add_argument("--queries", type=Path, help="another queries.parquet")
    parser.add_argument("--labels", type=Path, help="another labels.parquet")
    parser.add_argument("--runs", type=Path, help="folder for TREC run files")
    given = parser.parse_args(argv)
    more = {"queries": given.queries, "labels": given.labels, "runs": given.runs}
    result = options.measure(program, given, evaluate, _show, **more)
    return 2 if result is None else 0


if __name__ == "__main__":
    sys.exit(main())
