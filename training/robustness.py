"""Robustness: nDCG@10 of every plan of a bundle when queries or products are not as they should be.

`python -m training.robustness BUNDLE --data DIR [--split dev] [--against BUNDLE] [--json]`, through the
engine that serves, as `training.evaluate` measures. Conditions:

- typos: one slip of the keyboard in a word of the query (four Latin letters or more), several draws averaged;
- shuffled: the words of the query in another order, several draws averaged;
- no description, no brand, no category: that field is missing from every product;
- stuffed: for each query some irrelevant products carry its words, three times, before their description.

Each is compared with the clean figure query by query. "judged" orders a query's judged products, "catalogue"
ranks all of them; a stuffed product that was never judged counts in "catalogue" alone. With --against, the
two bundles are also compared with each other under each condition: before and after augmentation, say.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.bundle import read_bundle
from muster.products import Judgements, read_judgements, read_products
from muster.v1 import catalogue_pb2
from training import options
from training.data.edits import mistyped
from training.data.lexicon import whole_text, words_of
from training.engine import Catalogue, open_catalogue
from training.evaluate import SETTINGS
from training.measure import difference, estimate, ndcg_by_query

CLEAN, TYPOS, SHUFFLED, STUFFED = "clean", "typos", "shuffled", "stuffed"
FIELDS = ("description", "brand", "category")
CONDITIONS = (TYPOS, SHUFFLED, *(f"no {field}" for field in FIELDS), STUFFED)
_STUFFING_TIMES = 3
_RESULTS = 10

Products = Sequence[catalogue_pb2.Product]
Values = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Plan to condition to setting to query to nDCG@10."""


@dataclass(frozen=True)
class Task:
    """What is measured on. judged: scorable query to those of its judged products that the catalogue has."""

    products: Products
    judgements: Judgements
    judged: Mapping[str, Sequence[str]]

    def gains(self) -> dict[str, dict[str, float]]:
        """Gains of the scorable queries."""
        return {query: dict(self.judgements.gains[query]) for query in self.judged}


def read_task(data: str | Path, split: str | None, mapping: str | None = None) -> Task:
    """Read products and judged queries. Raises: ProductError; ValueError where no query can be scored."""
    judgements = read_judgements(data, split)
    scorable = judgements.scorable()
    if not scorable:
        raise ValueError(f"no query of the split {split!r} has a relevant product")
    products = list(read_products(data, mapping))
    known = {product.product_id for product in products}
    judged = {query: [key for key in judgements.gains[query] if key in known] for query in scorable}
    return Task(products, judgements, judged)


def mistyped_queries(task: Task, chooser: np.random.Generator) -> dict[str, str]:
    """Each query with one slip of the keyboard; as it is where no word is long enough."""
    known = frozenset(word for product in task.products for word in words_of(whole_text(product)))
    texts = {query: task.judgements.queries[query] for query in task.judged}
    return {query: mistyped(text, known, chooser) or text for query, text in texts.items()}


def shuffled_queries(task: Task, chooser: np.random.Generator) -> dict[str, str]:
    """Each query with its words in another order; as it is where all its words are the same."""
    made = {}
    for query in task.judged:
        words = task.judgements.queries[query].split()
        order = words
        while order == words and len(set(words)) > 1:
            order = [words[int(at)] for at in chooser.permutation(len(words))]
        made[query] = " ".join(order) if order != words else task.judgements.queries[query]
    return made


def without_field(products: Products, field: str) -> list[catalogue_pb2.Product]:
    """Copies of the products with one field empty."""
    made = []
    for product in products:
        copy = catalogue_pb2.Product()
        copy.CopyFrom(product)
        copy.ClearField(field)  # type: ignore[arg-type]
        made.append(copy)
    return made


def choose_stuffed(task: Task, count: int, chooser: np.random.Generator) -> dict[str, str]:
    """Products to stuff, each with the query whose words it gets.

    For each query up to `count` that were judged worth nothing for it; where there are too few, others that
    nobody judged for any query. None of them is worth anything for any query, and none is stuffed twice.
    """
    worth = {key for gains in task.judgements.gains.values() for key, gain in gains.items() if gain > 0}
    seen = {key for gains in task.judgements.gains.values() for key in gains}
    unjudged = [product.product_id for product in task.products if product.product_id not in seen]
    unjudged = [unjudged[int(at)] for at in chooser.permutation(len(unjudged))]
    chosen: dict[str, str] = {}
    for query, keys in task.judged.items():
        worthless = [key for key in keys if key not in worth and key not in chosen]
        mine = [worthless[int(at)] for at in chooser.permutation(len(worthless))[:count]]
        while len(mine) < count and unjudged:
            mine.append(unjudged.pop())
        chosen.update(dict.fromkeys(mine, query))
    return chosen


def stuffed(task: Task, chosen: Mapping[str, str]) -> list[catalogue_pb2.Product]:
    """The products; those chosen say the words of their query three times before their description."""
    made = []
    for product in task.products:
        copy = catalogue_pb2.Product()
        copy.CopyFrom(product)
        query = chosen.get(product.product_id)
        if query is not None:
            words = " ".join([task.judgements.queries[query]] * _STUFFING_TIMES)
            copy.description = f"{words}. {product.description}"
        made.append(copy)
    return made


def plan_name(plan: Mapping[str, Any]) -> str:
    """As run files are named: the tier, and the depth where there is one."""
    return str(plan["tier"]) if not plan["depth"] else f"{plan['tier']}-{plan['depth']}"


def measure(
    bundle: str | Path,
    task: Task,
    *,
    seed: int,
    draws: int,
    stuffed_products: int,
    cache: Path | None,
    threads: int,
    note: Callable[[str], None],
) -> tuple[Values, dict[str, dict[str, int]]]:
    """nDCG@10 of every plan, condition, setting and query, and what each condition changed.

    Raises: BundleError; rankcore.RankError.
    """
    plans = read_bundle(bundle).plans()
    values: Values = {plan_name(plan): {} for plan in plans}
    changed: dict[str, dict[str, int]] = {}
    clean = {query: task.judgements.queries[query] for query in task.judged}

    def run(condition: str, products: Products, draws_of_texts: Sequence[Mapping[str, str]]) -> None:
        note(f"{Path(bundle).name}: {condition}")
        with open_catalogue(bundle, products, cache=cache, threads=threads) as catalogue:
            for plan in tqdm(plans, desc=condition, mininterval=2, file=sys.stderr):
                values[plan_name(plan)][condition] = _measured(catalogue, plan, task, draws_of_texts)

    run(CLEAN, task.products, [clean])
    for number, (condition, edit) in enumerate(((TYPOS, mistyped_queries), (SHUFFLED, shuffled_queries))):
        chooser = np.random.default_rng([seed, number])
        texts = [edit(task, chooser) for _ in range(draws)]
        changed[condition] = {"queries": sum(texts[0][query] != clean[query] for query in clean)}
        run(condition, task.products, texts)
    for field in FIELDS:
        products = without_field(task.products, field)
        count = sum(one != other for one, other in zip(products, task.products, strict=True))
        changed[f"no {field}"] = {"products": count}
        run(f"no {field}", products if count else task.products, [clean])
    chosen = choose_stuffed(task, stuffed_products, np.random.default_rng([seed, 9]))
    judged = sum(key in task.judged[query] for key, query in chosen.items())
    changed[STUFFED] = {"products": len(chosen), "judged": judged, "queries": len(set(chosen.values()))}
    run(STUFFED, stuffed(task, chosen), [clean])
    return values, changed


def robustness(
    bundle: str | Path,
    data: str | Path,
    *,
    split: str | None = "dev",
    against: str | Path | None = None,
    mapping: str | None = None,
    cache: Path | None = None,
    seed: int = 20260401,
    rounds: int = 2000,
    draws: int = 3,
    stuffed_products: int = 5,
    threads: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a bundle. against: another bundle, to compare with under each condition.

    draws: of typos and shuffles a query. stuffed_products: for each query. seed, rounds: of the bootstrap,
    the seed of the edits too.
    Returns: {"bundle", "split", "queries", "products", "conditions", "plans"}. conditions: name to what was
    changed. plans: [{"plan", "tier", "depth", "clean": {setting: {"ndcg10", "low", "high"}}, "conditions":
    {name: {setting: {"ndcg10", "difference", "low", "high", "inside_noise"}}}}]. With `against` also
    "against", its id, and in each plan that both have "against": {name: {setting: the same, this bundle's
    less the other's}}.
    Raises: BundleError; ProductError; rankcore.RankError; ValueError where no query can be scored.
    """
    if draws < 1 or stuffed_products < 1:
        raise ValueError("draws and stuffed_products must be at least 1")
    task = read_task(data, split, mapping)

    def measured(one: str | Path) -> tuple[Values, dict[str, dict[str, int]]]:
        return measure(
            one,
            task,
            seed=seed,
            draws=draws,
            stuffed_products=stuffed_products,
            cache=cache,
            threads=threads,
            note=note,
        )

    def compared(
        better: Mapping[str, Mapping[str, float]], worse: Mapping[str, Mapping[str, float]]
    ) -> dict[str, dict[str, Any]]:
        found = {}
        for setting in SETTINGS:
            gap = difference({"": better[setting]}, {"": worse[setting]}, seed=seed, rounds=rounds)
            mean = sum(better[setting].values()) / len(better[setting])
            found[setting] = {
                "ndcg10": round(mean, 4),
                "difference": round(gap.mean, 4),
                "low": round(gap.low, 4),
                "high": round(gap.high, 4),
                "inside_noise": round(gap.low, 4) <= 0.0 <= round(gap.high, 4),
            }
        return found

    opened = read_bundle(bundle)
    values, changed = measured(bundle)
    other = None if against is None else measured(against)[0]
    plans = []
    for plan in opened.plans():
        mine = values[plan_name(plan)]
        entry: dict[str, Any] = {
            "plan": plan_name(plan),
            "tier": plan["tier"],
            "depth": int(plan["depth"]),
            CLEAN: {
                setting: estimate(mine[CLEAN][setting], seed=seed, rounds=rounds).rounded()
                for setting in SETTINGS
            },
            "conditions": {name: compared(mine[name], mine[CLEAN]) for name in CONDITIONS},
        }
        theirs = None if other is None else other.get(plan_name(plan))
        if theirs is not None:
            entry["against"] = {name: compared(mine[name], theirs[name]) for name in (CLEAN, *CONDITIONS)}
        plans.append(entry)
    result: dict[str, Any] = {
        "bundle": opened.bundle_id,
        "split": split,
        "queries": len(task.judged),
        "products": len(task.products),
        "conditions": changed,
        "plans": plans,
    }
    if against is not None:
        result["against"] = read_bundle(against).bundle_id
    return result


def _measured(
    catalogue: Catalogue,
    plan: Mapping[str, Any],
    task: Task,
    draws_of_texts: Sequence[Mapping[str, str]],
) -> dict[str, dict[str, float]]:
    """Setting to query to nDCG@10, mean over the draws."""
    tier, depth, width = str(plan["tier"]), int(plan["depth"]), int(plan["width"])
    gains = task.gains()
    total: dict[str, dict[str, float]] = {setting: dict.fromkeys(gains, 0.0) for setting in SETTINGS}
    for texts in draws_of_texts:
        for setting in SETTINGS:
            orders = {}
            for query, keys in task.judged.items():
                if setting == "catalogue":
                    ranking = catalogue.search(texts[query], tier, depth, width, results=_RESULTS)
                else:
                    ranking = catalogue.rerank(texts[query], keys, tier, depth) if keys else []
                orders[query] = [key for key, _ in ranking]
            for query, value in ndcg_by_query(gains, orders).items():
                total[setting][query] += value / len(draws_of_texts)
    return total


def _show(result: Mapping[str, Any]) -> None:
    console = Console()

    def cell(value: Mapping[str, Any]) -> str:
        interval = f"[{value['low']:+.3f}, {value['high']:+.3f}]"
        mark = " ~" if value["inside_noise"] else ""
        return f"{value['ndcg10']:.3f}  {value['difference']:+.3f} {interval}{mark}"

    table = Table(title=f"{result['bundle']}: {result['queries']} queries, {result['products']} products")
    for column in ("plan", "condition", "judged only", "whole catalogue"):
        table.add_column(column)
    for plan in result["plans"]:
        clean = plan[CLEAN]
        table.add_row(
            plan["plan"], CLEAN, f"{clean['judged']['ndcg10']:.3f}", f"{clean['catalogue']['ndcg10']:.3f}"
        )
        for name, row in plan["conditions"].items():
            table.add_row("", name, cell(row["judged"]), cell(row["catalogue"]))
        for name, row in plan.get("against", {}).items():
            table.add_row(
                "", f"{name}, less {result['against']}", cell(row["judged"]), cell(row["catalogue"])
            )
    console.print(table)
    console.print("nDCG@10 and its difference, with 95 % intervals over queries. ~: inside the noise.")
    for name, counts in result["conditions"].items():
        console.print(f"{name}: changed " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 done, 2 bad input."""
    program = "python -m training.robustness"
    description = "nDCG@10 per plan under typos, missing fields and stuffing."
    parser = options.parser(program, description, seed_of="of the edits and of the bootstrap")
    parser.add_argument("--against", type=Path, help="another bundle, to compare with under each condition")
    parser.add_argument("--draws", type=int, default=3, help="typos and shuffles a query")
    parser.add_argument("--stuffed", type=int, default=5, help="stuffed products a query")
    given = parser.parse_args(argv)
    result = options.measure(
        program,
        given,
        robustness,
        _show,
        against=given.against,
        draws=given.draws,
        stuffed_products=given.stuffed,
        note=lambda text: print(text, file=sys.stderr),
    )
    return 2 if result is None else 0


if __name__ == "__main__":
    sys.exit(main())
