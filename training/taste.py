"""What taste is worth in a search, on shoppers that are made up.

    python -m training.taste [--bundle models/muster-base] [--shoppers 600] [--seed 1] [--json]

A synthetic catalogue, whose relevance is known by construction. Half of the shoppers like one brand: of what
they looked at most are of it, and a product of it is worth one grade more to them where it is relevant at
all. The other half look at anything and like the relevant. Each looked at a few products of one shelf, and
then searches on that shelf, for a brand or for none. nDCG@10 with and without their history, shopper by
shopper. What real shoppers like nobody knows here, so the figures compare weights, and foretell no shop's
gain.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from muster.bundle import BundleError
from muster.products.synthetic import Facts, Query, SyntheticCatalogue, grade
from muster.v1 import ranking_pb2
from training.engine import Catalogue, open_catalogue
from training.measure import Estimate, difference, ndcg_by_query

WEIGHTS = (0.1, 0.25, 0.5, 1.0)
HISTORY = 5
LIKED_SHARE = 0.7
"""Of what a shopper with a brand looked at."""
BRANDED, ANY = "with a brand", "without"
EXIT_BAD_INPUT = 2
_TYPES_OF_A_SHELF = 5
_DEPTH, _WIDTH = 50, 100


@dataclass(frozen=True)
class Shopper:
    """brand: that the shopper likes; empty: none. history: product ids, oldest first."""

    brand: str
    history: tuple[str, ...]
    query: Query


def product_id(number: int) -> str:
    """As `SyntheticCatalogue` names it."""
    return f"S{number:08d}"


def made_up(facts: Sequence[Facts], queries: Sequence[Query], count: int, seed: int) -> list[Shopper]:
    """So many shoppers, every second one with a brand."""
    draw = random.Random(seed)
    shelves: dict[int, list[Facts]] = {}
    for one in facts:
        shelves.setdefault(one.type // _TYPES_OF_A_SHELF, []).append(one)
    found = []
    for number in range(count):
        query = queries[number % len(queries)]
        shelf = shelves[query.type // _TYPES_OF_A_SHELF]
        brand = draw.choice(shelf).brand if number % 2 else ""
        liked = [one for one in shelf if one.brand == brand]
        history = [
            draw.choice(liked if liked and draw.random() < LIKED_SHARE else shelf) for _ in range(HISTORY)
        ]
        ids = tuple(dict.fromkeys(product_id(one.number) for one in history))
        found.append(Shopper(brand, ids, query))
    return found


def wanted(shopper: Shopper, facts: Sequence[Facts]) -> dict[str, float]:
    """What each product is worth to a shopper: its grade, one more where it is of the brand and relevant."""
    found = {}
    for one in facts:
        value = grade(shopper.query, one)
        if value:
            found[product_id(one.number)] = float(value + (one.brand == shopper.brand))
    return found


def orders(
    plain: Sequence[tuple[str, float]], adds: Mapping[str, float], weights: Sequence[float]
) -> dict[float, list[str]]:
    """The order of each weight, 0 among them. plain: product and score, best first, without a history. adds:
    what the history adds to a product's score at a weight of 1.
    """
    return {
        weight: [
            name for name, _ in sorted(plain, key=lambda one: -(one[1] + weight * adds.get(one[0], 0.0)))
        ]
        for weight in (0.0, *weights)
    }


def asked(
    catalogue: Catalogue, shopper: Shopper, tier: str
) -> tuple[list[tuple[str, float]], dict[str, float]]:
    """The shopper's results without a history, and what the history adds to each."""
    request = ranking_pb2.SearchRequest(
        query=shopper.query.text,
        page_size=100,
        explain=True,
        history=[ranking_pb2.HistoryItem(product_id=one) for one in shopper.history],
    )
    answer = ranking_pb2.SearchResponse.FromString(
        catalogue.engine.execute(request.SerializeToString(), tier, _DEPTH, _WIDTH)
    )
    adds = {
        one.product_id: signal.contribution
        for one in answer.results
        for signal in one.signals
        if signal.name == "taste"
    }
    return catalogue.search(shopper.query.text, tier, _DEPTH, _WIDTH), adds


def measure(
    catalogue: Catalogue, facts: Sequence[Facts], shoppers: Sequence[Shopper], tier: str
) -> dict[str, dict[float, dict[str, float]]]:
    """nDCG@10 of each shopper: kind of shopper, weight, name of the shopper. The engine has a weight of 1."""
    found: dict[str, dict[float, dict[str, float]]] = {BRANDED: {}, ANY: {}}
    told = track(shoppers, "shoppers", console=Console(stderr=True), transient=True)
    for number, shopper in enumerate(told):
        plain, adds = asked(catalogue, shopper, tier)
        gains = {"": wanted(shopper, facts)}
        kind = found[BRANDED if shopper.brand else ANY]
        for weight, order in orders(plain, adds, WEIGHTS).items():
            kind.setdefault(weight, {})[str(number)] = ndcg_by_query(gains, {"": order}).get("", 0.0)
    return found


def compared(
    measured: Mapping[str, Mapping[float, Mapping[str, float]]], seed: int
) -> dict[str, dict[float, Estimate]]:
    """Each weight less none, shopper by shopper."""
    return {
        kind: {
            weight: difference({kind: by_weight[weight]}, {kind: by_weight[0.0]}, seed=seed)
            for weight in WEIGHTS
        }
        for kind, by_weight in measured.items()
        if by_weight
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 where it cannot begin."""
    parser = argparse.ArgumentParser(prog="python -m training.taste", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/muster-base"))
    parser.add_argument("--shoppers", type=int, default=600)
    parser.add_argument("--products", type=int, default=3_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--tier", default="late", choices=["lexical", "hybrid", "late"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(argv)
    made = SyntheticCatalogue(given.products, given.seed)
    facts = [made.facts(number) for number in range(given.products)]
    shoppers = made_up(facts, made.queries(given.queries), given.shoppers, given.seed)
    try:
        with open_catalogue(given.bundle, made.products(), taste_weight=1.0) as catalogue:
            measured = measure(catalogue, facts, shoppers, given.tier)
    except (BundleError, OSError) as error:
        print(f"python -m training.taste: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    found = compared(measured, given.seed)
    if given.json:
        print(json.dumps(_plain(measured, found, given.seed), indent=2))
        return 0
    table = Table(title="nDCG@10, simulated shoppers")
    for column in ("shoppers", "no history", *(f"weight {one:g}" for one in WEIGHTS)):
        table.add_column(column, justify="left" if column == "shoppers" else "right")
    for kind, gains in found.items():
        alone = measured[kind][0.0]
        shown = [f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for one in gains.values()]
        table.add_row(f"{len(alone)} {kind}", f"{sum(alone.values()) / len(alone):.4f}", *shown)
    Console().print(table)
    return 0


def _plain(
    measured: Mapping[str, Mapping[float, Mapping[str, float]]],
    found: Mapping[str, Mapping[float, Estimate]],
    seed: int,
) -> dict[str, Any]:
    return {
        "simulated": True,
        "seed": seed,
        "shoppers": {
            kind: {
                "shoppers": len(measured[kind][0.0]),
                "ndcg10_without": round(sum(measured[kind][0.0].values()) / len(measured[kind][0.0]), 4),
                "gain_by_weight": {f"{weight:g}": one.rounded() for weight, one in gains.items()},
            }
            for kind, gains in found.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
