"""Fairness of a bundle: what exposure each group of products gets beside its merit, before and after a bound.

Groups are brands (who sells, as far as these data know), price bands, or values of an attribute. Merit is the
gain of the judgements, so only judged queries count. Small groups are told together: of few products or
queries nothing can be said, and single sellers should not be read off.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.products import read_judgements, read_products
from training import options
from training.engine import open_catalogue
from training.exposure import bounded, exposures
from training.fairness_plot import draw
from training.measure import difference, estimate, ndcg_by_query

OTHERS = "(small groups)"
BANDS = ("low price", "middle price", "high price")
_RESULTS = 50

Orders = Mapping[str, Sequence[str]]
Gains = Mapping[str, Mapping[str, float]]


def groups_of(products: Iterable[Any], by: str) -> dict[str, str]:
    """Product id to group; products of which it is not known are left out.

    by: "brand", "price" (thirds of the known prices) or "attributes.NAME". Raises: ValueError for another.
    """
    listed = list(products)
    if by == "brand":
        return {one.product_id: one.brand.strip().lower() for one in listed if one.brand.strip()}
    if by == "price":
        priced = {one.product_id: one.price for one in listed if one.HasField("price")}
        if not priced:
            return {}
        cuts = np.quantile(list(priced.values()), [1 / 3, 2 / 3])
        return {key: BANDS[int(np.searchsorted(cuts, price))] for key, price in priced.items()}
    name = by.removeprefix("attributes.")
    if name == by or not name:
        raise ValueError(f"groups are by brand, price or attributes.NAME, not {by!r}")
    return {one.product_id: one.attributes[name] for one in listed if name in one.attributes}


def pooled(
    group_of: Mapping[str, str], gains: Gains, *, products_min: int, queries_min: int
) -> dict[str, str]:
    """The groups with the small ones told together: those with fewer judged products, or fewer queries that
    judge one of them."""
    products: Counter[str] = Counter()
    queries: Counter[str] = Counter()
    seen: set[str] = set()
    for judged in gains.values():
        here = {key for key in judged if key in group_of}
        queries.update({group_of[key] for key in here})
        products.update(group_of[key] for key in here - seen)
        seen |= here
    large = {name for name in products if products[name] >= products_min and queries[name] >= queries_min}
    return {key: name if name in large else OTHERS for key, name in group_of.items()}


def group_figures(
    orders: Orders, gains: Gains, group_of: Mapping[str, str], *, seed: int, rounds: int
) -> list[dict[str, Any]]:
    """Each group's share of the exposure and of the merit, their ratio, and nDCG@10 among its own products.

    Intervals: 95 %, by the bootstrap over queries. Returns: the group of the largest merit first.
    """
    names = sorted(set(group_of.values()))
    queries = sorted(gains)
    shown = np.zeros((len(queries), len(names)))
    merit = np.zeros((len(queries), len(names)))
    place_of = {name: at for at, name in enumerate(names)}
    for row, query in enumerate(queries):
        for name, value in exposures(orders.get(query, ()), group_of).items():
            shown[row, place_of[name]] = value
        for key, gain in gains[query].items():
            if key in group_of:
                merit[row, place_of[group_of[key]]] += gain
    # Each query weighs the same, however many judgements it has.
    merit /= np.maximum(merit.sum(axis=1, keepdims=True), 1e-12)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(queries), size=(rounds, len(queries)))
    told = []
    for name, at in place_of.items():
        ratios = _ratios(shown, merit, drawn, at)
        own_gains = {
            query: {key: gain for key, gain in judged.items() if group_of.get(key) == name}
            for query, judged in gains.items()
        }
        own_gains = {query: judged for query, judged in own_gains.items() if any(judged.values())}
        own = {q: [key for key in orders.get(q, ()) if group_of.get(key) == name] for q in own_gains}
        values = ndcg_by_query(own_gains, own) if own_gains else {}
        told.append(
            {
                "group": name,
                "queries": len(own_gains),
                "exposure": _rounded(shown[:, at].sum() / max(shown.sum(), 1e-12)),
                "merit": _rounded(merit[:, at].sum() / max(merit.sum(), 1e-12)),
                "exposure_to_merit": ratios,
                "ndcg10": estimate(values, seed=seed, rounds=rounds).rounded() if values else None,
            }
        )
    return sorted(told, key=lambda one: -one["merit"])


def _ratios(shown: Any, merit: Any, drawn: Any, at: int) -> dict[str, float] | None:
    def ratio(rows: Any) -> Any:
        exposed = shown[rows].sum(axis=-2)
        worth = merit[rows].sum(axis=-2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (exposed[..., at] / exposed.sum(axis=-1)) / (worth[..., at] / worth.sum(axis=-1))

    whole = float(ratio(np.arange(len(shown))))
    if not np.isfinite(whole):
        return None
    resampled = ratio(drawn)
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"ratio": _rounded(whole), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float) -> float:
    return round(float(value), 4)


def fairness(
    bundle: str | Path,
    data: str | Path,
    *,
    split: str | None = "dev",
    mapping: str | None = None,
    cache: Path | None = None,
    seed: int = 20260401,
    rounds: int = 2000,
    by: str = "brand",
    floor: float = 0.8,
    products_min: int = 10,
    queries_min: int = 5,
) -> dict[str, Any]:
    """Measure the best plan of a bundle over the whole catalogue, as it orders and with the bound.

    Returns: {"bundle", "by", "plan", "queries", "floor", "before": groups, "after": groups, "ndcg10":
    {"before", "after", "difference"}}. Raises: as `training.evaluate.evaluate`.
    """
    judgements = read_judgements(data, split)
    scorable = judgements.scorable()
    if not scorable:
        raise ValueError(f"no query of the split {split!r} has a relevant product")
    products = list(read_products(data, mapping))
    gains = {query: dict(judgements.gains[query]) for query in scorable}
    known = groups_of(products, by)
    if not known:
        raise ValueError(f"no product says anything of {by}; choose another --by")
    group_of = pooled(known, gains, products_min=products_min, queries_min=queries_min)
    orders: dict[str, list[str]] = {}
    with open_catalogue(bundle, products, cache=cache, threads=0) as catalogue:
        plan = max(catalogue.bundle.plans(), key=lambda one: float(one["expected_ndcg"]))
        tier, depth, width = str(plan["tier"]), int(plan["depth"]), int(plan["width"])
        for query in tqdm(scorable, desc="queries", mininterval=2, file=sys.stderr):
            found = catalogue.search(judgements.queries[query], tier, depth, width, results=_RESULTS)
            orders[query] = [key for key, _ in found]
        bundle_id = catalogue.bundle.bundle_id
    # Small groups that are told together are no group that something is owed to.
    owed = {key: name for key, name in group_of.items() if name != OTHERS}
    after = {query: bounded(order, owed, floor=floor) for query, order in orders.items()}
    quality = {"before": ndcg_by_query(gains, orders), "after": ndcg_by_query(gains, after)}
    changed = difference({"all": quality["after"]}, {"all": quality["before"]}, seed=seed, rounds=rounds)
    return {
        "bundle": bundle_id,
        "by": by,
        "plan": f"{tier}@{depth}",
        "queries": len(scorable),
        "floor": floor,
        "before": group_figures(orders, gains, group_of, seed=seed, rounds=rounds),
        "after": group_figures(after, gains, group_of, seed=seed, rounds=rounds),
        "ndcg10": {
            "before": estimate(quality["before"], seed=seed, rounds=rounds).rounded(),
            "after": estimate(quality["after"], seed=seed, rounds=rounds).rounded(),
            "difference": changed.rounded(),
        },
    }


def _show(result: Mapping[str, Any]) -> None:
    title = f"{result['bundle']}, {result['plan']}, by {result['by']}: {result['queries']} queries"
    table = Table(title=title)
    for column in ("group", "merit", "exposure", "to merit", f"floor {result['floor']:g}", "own nDCG@10"):
        table.add_column(column, justify="left" if column == "group" else "right")
    after = {one["group"]: one for one in result["after"]}
    for one in result["before"]:
        bound = after[one["group"]]
        table.add_row(
            one["group"],
            f"{one['merit']:.1%}",
            f"{one['exposure']:.1%}",
            _span(one["exposure_to_merit"], "ratio"),
            _span(bound["exposure_to_merit"], "ratio"),
            _span(one["ndcg10"], "ndcg10"),
        )
    console = Console()
    console.print(table)
    told = {name: _span(value, "ndcg10") for name, value in result["ndcg10"].items()}
    console.print(
        f"nDCG@10 {told['before']}, with the bound {told['after']}: {told['difference']}", highlight=False
    )


def _span(value: Mapping[str, float] | None, name: str) -> str:
    return "-" if value is None else f"{value[name]:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `muster fairness`. Returns the exit code: 0 done, 2 bad input."""
    program = "muster fairness"
    parser = options.parser(
        program, "Exposure of groups of products beside their merit, with and without a bound."
    )
    parser.add_argument("--by", default="brand", help="brand, price or attributes.NAME")
    parser.add_argument("--floor", type=float, default=0.8, help="of a group's share of candidates, 0 to 1")
    parser.add_argument("--products-min", type=int, default=10, help="judged products of a group told alone")
    parser.add_argument("--queries-min", type=int, default=5, help="queries of a group told alone")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of exposure over merit by group")
    given = parser.parse_args(argv)
    more = {
        "by": given.by,
        "floor": given.floor,
        "products_min": given.products_min,
        "queries_min": given.queries_min,
    }
    result = options.measure(program, given, fairness, _show, **more)
    if result is None:
        return 2
    if given.plot is not None:
        draw(result, given.plot)
        print(f"{program}: {given.plot} shows it", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
