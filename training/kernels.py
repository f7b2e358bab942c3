"""Kernels: nDCG@10 of every plan of a bundle with the core's own int8 kernels, and with ONNX Runtime.

    python -m training.kernels BUNDLE --data DIR/SET

Both index the whole catalogue with their own vectors and answer the same queries, so what is compared is all
that the choice of kernels changes: products, queries and pairs. The two round activations differently (the
core token by token, ONNX Runtime text by text), so neither is exact; the gate is that nothing is lost that
can be measured: no interval of a paired difference may lie below 0. The settings are those of
`muster evaluate`.

Beside the plans stand single signals, dense vectors and late interaction, on the judged products. They come
before any ranker: a ranker that was trained on the signals of one kind of kernels knows that kind's rounding
by heart, on the queries that it was trained on. So plans are to be judged on other queries (the default
split), and signals on as many as there are (`--split all`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.products import Judgements, read_judgements, read_products
from training import options
from training.engine import Catalogue, open_catalogue
from training.evaluate import SETTINGS
from training.measure import best_first, difference, estimate, ndcg_by_query

OWN, REFERENCE = "own", "onnxruntime"
SIGNALS = ("dense", "late")

Orders = dict[str, dict[str, list[str]]]
"""Setting to query to product ids, best first."""


def compare(
    bundle: str | Path,
    data: str | Path,
    *,
    split: str | None = "dev",
    mapping: str | None = None,
    cache: Path | None = None,
    seed: int = 20260401,
    rounds: int = 2000,
    threads: int = 0,
    kernels: tuple[str, str] = (OWN, REFERENCE),
) -> dict[str, Any]:
    """Measure a bundle with both kernels.

    data, split, mapping, cache: as for `training.evaluate.evaluate`. seed, rounds: of the bootstrap.
    kernels: the ones under test, and what they are held against.
    Returns: {"bundle", "queries", "products", "models": {kernels: [[model, runner, reason]]}, "rankings":
    [{"name", setting: {kernels: {"ndcg10", "low", "high"}, "difference": the same, "changed": share of
    queries with another first page}}], "passed"}. A ranking is a plan, or a signal in brackets, which has no
    setting "catalogue".
    Raises: BundleError; ProductError; rankcore.RankError; ValueError where no query has a relevant product.
    """
    judgements = read_judgements(data, split)
    scorable = judgements.scorable()
    if not scorable:
        raise ValueError(f"no query of the split {split!r} has a relevant product")
    products = list(read_products(data, mapping))
    known = {product.product_id for product in products}
    judged = {query: [key for key in judgements.gains[query] if key in known] for query in scorable}
    gains = {query: dict(judgements.gains[query]) for query in scorable}
    found: dict[str, dict[str, Orders]] = {}
    models: dict[str, list[list[str | None]]] = {}
    for name in kernels:
        with open_catalogue(bundle, products, cache=cache, threads=threads, kernels=name) as catalogue:
            models[name] = [list(model) for model in catalogue.engine.models]
            found[name] = _orders(catalogue, judgements, judged, name)
            bundle_id = catalogue.bundle.bundle_id
    own, reference = kernels
    rankings = []
    for ranking, orders in found[own].items():
        row: dict[str, Any] = {"name": ranking}
        for setting, order in orders.items():
            sides = {own: order, reference: found[reference][ranking][setting]}
            values = {name: ndcg_by_query(gains, side) for name, side in sides.items()}
            gap = difference({"": values[own]}, {"": values[reference]}, seed=seed, rounds=rounds)
            changed = [order[query][:10] != sides[reference][query][:10] for query in scorable]
            row[setting] = {
                **{name: estimate(values[name], seed=seed, rounds=rounds).rounded() for name in kernels},
                "difference": gap.rounded(),
                "changed": round(sum(changed) / len(changed), 4),
            }
        rankings.append(row)
    return {
        "bundle": bundle_id,
        "split": split,
        "queries": len(scorable),
        "products": len(products),
        "kernels": list(kernels),
        "models": models,
        "rankings": rankings,
        "passed": all(
            row[setting]["difference"]["high"] >= 0.0
            for row in rankings
            for setting in SETTINGS
            if setting in row
        ),
    }


def _orders(
    catalogue: Catalogue, judgements: Judgements, judged: Mapping[str, Sequence[str]], name: str
) -> dict[str, Orders]:
    """What each plan answers, and what the order by each signal is, by their names."""
    found: dict[str, Orders] = {}
    plans = catalogue.bundle.plans()
    for plan in tqdm(plans, desc=f"plans, {name}", mininterval=2, file=sys.stderr):
        tier, depth, width = plan["tier"], int(plan["depth"]), int(plan["width"])
        orders: Orders = {setting: {} for setting in SETTINGS}
        for query, keys in judged.items():
            text = judgements.queries[query]
            whole = catalogue.search(text, tier, depth, width)
            some = catalogue.rerank(text, keys, tier, depth) if keys else []
            orders["catalogue"][query] = [key for key, _ in whole]
            orders["judged"][query] = [key for key, _ in some]
        found[tier if depth == 0 else f"{tier} @ {depth}"] = orders
    for signal in SIGNALS:
        found[f"({signal})"] = {"judged": {}}
    for query, keys in judged.items():
        if not keys:
            for signal in SIGNALS:
                found[f"({signal})"]["judged"][query] = []
            continue
        signals = catalogue.signals(judgements.queries[query], "late", product_ids=keys, width=1)
        for signal in SIGNALS:
            order = best_first(signals.column(signal))
            found[f"({signal})"]["judged"][query] = [signals.product_ids[at] for at in order]
    return found


def _show(result: Mapping[str, Any]) -> None:
    own, reference = result["kernels"]
    table = Table(title=f"{result['bundle']}: {result['queries']} queries, {result['products']} products")
    for column in ("ranking", "setting", own, reference, "difference", "other first page"):
        table.add_column(column, justify="left" if column in ("ranking", "setting") else "right")
    for row in result["rankings"]:
        for setting in [one for one in SETTINGS if one in row]:
            cell = row[setting]
            gap = cell["difference"]
            table.add_row(
                row["name"],
                setting,
                f"{cell[own]['ndcg10']:.4f}",
                f"{cell[reference]['ndcg10']:.4f}",
                f"{gap['ndcg10']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]",
                f"{cell['changed']:.2f}",
            )
    console = Console()
    console.print(table)
    for name, models in result["models"].items():
        for model, runner, reason in models:
            console.print(f"{name}: {model} is run by {runner}{f': {reason}' if reason else ''}")
    console.print("passed" if result["passed"] else f"FAILED: {own} loses against {reference}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 nothing is lost, 1 something is, 2 bad input."""
    program = "python -m training.kernels"
    description = "nDCG@10 per plan with the core's own kernels and with ONNX Runtime, paired."
    parser = options.parser(program, description)
    parser.add_argument("--kernels", default=OWN, help="the kernels under test")
    parser.add_argument("--against", default=REFERENCE, help="the kernels that they are held against")
    parser.add_argument("--threads", type=int, default=0, help="that index (default: one for each core)")
    given = parser.parse_args(argv)
    more = {"threads": given.threads, "kernels": (given.kernels, given.against)}
    result = options.measure(program, given, compare, _show, **more)
    if result is None:
        return 2
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
