"""Evaluate: HR@10 and nDCG@10 over all items, for the section of a bundle and for each source by itself.

    muster evaluate BUNDLE --task recommend --data FILE [--json]

The test of the file (`training.recommend.behaviour`) is foretold from what the section holds, int8 and cut
tables included. Items of which the bundle knows nothing count as missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from muster.bundle import BundleError
from muster.bundle.recommend import ORDER_FILE, SECTION, RecommendSection, read_section
from muster.products import ProductError
from training.recommend.behaviour import Behaviour, Cases, read_behaviour
from training.recommend.measured import Ranks, gap, target_ranks
from training.recommend.mixture import FromPopularity, Source, chunks, mixed, shares_of, strip
from training.recommend.order import first, ordered, ranks_among, signals_of
from training.recommend.relations import COUNTS
from training.recommend.section import sources_of

POPULARITY, COUNTS_NAME = "popularity", "item_to_item_counts"
MIXTURE, ORDERED = "mixture", "mixture_ordered"
EXIT_BAD_INPUT = 2


def evaluate(
    bundle: Path,
    data: Path,
    *,
    seed: int = 20260401,
    rounds: int = 2000,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure a bundle's section on the test of a file. progress: told of cases done, of how many.

    Returns: {"users", "items", "known", "rankers": [{"name", "hr10", "hr10_low", "hr10_high", "ndcg10",
    "low", "high"}], "gain": of the last ranker over the counts, "cold": {"users", "rankers"}}, the last for
    targets that nobody took in what the section knows. Raises: BundleError, ProductError.
    """
    section = read_section(bundle / SECTION)
    behaviour = read_behaviour(data, seed=seed)
    cases = placed(section.item_ids(), behaviour)
    sources, weights = sources_of(section)
    taken = next(
        (one.counts for one in sources if isinstance(one, FromPopularity)),
        np.zeros(section.items, np.float32),
    )
    ranks = section_ranks(section, sources, weights, taken, cases, progress)
    cold = (cases.targets < 0) | (taken[np.maximum(cases.targets, 0)] == 0)
    measured = Ranks(ranks, cases.users, {"cold": cold})
    card = json.loads((section.folder / "card.json").read_text(encoding="utf-8"))
    found = {
        "data": behaviour.name,
        "users": len(cases),
        "items": section.items,
        "known": card.get("known", ""),
        "rankers": measured.rows(seed=seed, rounds=rounds),
    }
    best = ORDERED if ORDERED in ranks else MIXTURE
    if COUNTS_NAME in ranks:
        found["gain"] = {
            "of": best,
            "over": COUNTS_NAME,
            **gap(ranks[best], ranks[COUNTS_NAME], seed=seed, rounds=rounds, users=cases.users),
        }
    if cold.any():
        found["cold"] = {
            "users": int(cold.sum()),
            "rankers": measured.rows(seed=seed, rounds=rounds, kind="cold"),
        }
    return found


def placed(item_ids: Sequence[str], behaviour: Behaviour) -> Cases:
    """The test in the section's places: what it does not know is left out of histories, and as a target is
    -1.
    """
    places = {item: at for at, item in enumerate(item_ids)}
    there = np.array([places.get(item, -1) for item in behaviour.item_ids], dtype=np.int64)
    histories = [there[one] for one in behaviour.test.histories]
    return Cases(behaviour.test.users, [one[one >= 0] for one in histories], there[behaviour.test.targets])


def section_ranks(
    section: RecommendSection,
    sources: Sequence[Source],
    weights: NDArray[np.float64],
    taken: NDArray[np.float32],
    cases: Cases,
    progress: Callable[[int, int], object],
) -> dict[str, NDArray[np.int64]]:
    """Rank of each target by each source, by the mixture and by the final order: name to int64 [cases]."""
    names = [_shown(one.name) for one in sources]
    order = (section.folder / ORDER_FILE).read_text(encoding="utf-8") if section.candidates else None
    found = {name: np.empty(len(cases), dtype=np.int64) for name in [*names, MIXTURE]}
    if order is not None:
        found[ORDERED] = np.empty(len(cases), dtype=np.int64)
    for part in chunks(len(cases)):
        histories, targets = cases.histories[part], cases.targets[part]
        shares = shares_of(sources, histories, section.repeats)
        mixture = mixed(shares, weights)
        signals = None
        if order is not None:
            ahead = mixture.copy()
            _strip(section, ahead, histories)
            places = first(ahead, section.candidates)
            signals = places, signals_of(shares, mixture, places, histories)
        for name, scores in zip([*names, MIXTURE], [*shares, mixture], strict=True):
            _strip(section, scores, histories)
            found[name][part] = _ranks(scores, targets, section.items)
        if order is not None and signals is not None:
            ranks = ranks_among(ordered(order, *signals, taken), targets, section.items)
            # What the final order does not look at keeps its place behind it.
            found[ORDERED][part] = np.where(ranks < section.items, ranks, found[MIXTURE][part])
        progress(part.stop, len(cases))
    return found


def _shown(name: str) -> str:
    return COUNTS_NAME if name == COUNTS else name


def _strip(
    section: RecommendSection, scores: NDArray[np.float32], histories: Sequence[NDArray[np.int64]]
) -> None:
    if not section.repeats:
        strip(scores, histories, -np.inf)


def _ranks(scores: NDArray[np.float32], targets: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    ranks = target_ranks(scores, np.maximum(targets, 0))
    return np.where(targets < 0, items, ranks)


def _show(result: Mapping[str, Any]) -> None:
    console = Console()
    for title, part in (
        (f"{result['users']} shoppers, {result['items']} items", result),
        ("cold items", result.get("cold")),
    ):
        if part is None:
            continue
        table = Table(
            title=title if part is result else f"{part['users']} shoppers whose target nobody took before"
        )
        for column in ("ranker", "HR@10", "nDCG@10"):
            table.add_column(column, justify="left" if column == "ranker" else "right")
        for row in part["rankers"]:
            table.add_row(
                row["name"],
                f"{row['hr10']:.4f} [{row['hr10_low']:.4f}, {row['hr10_high']:.4f}]",
                f"{row['ndcg10']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
            )
        console.print(table)
    if "gain" in result:
        gain = result["gain"]
        console.print(
            f"{gain['of']} over {gain['over']}: nDCG@10 {gain['ndcg10']:+.4f} "
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}]",
            highlight=False,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `muster evaluate --task recommend`. Returns the exit code: 0 done, 2 bad input."""
    program = "muster evaluate --task recommend"
    parser = argparse.ArgumentParser(
        prog=program, description="HR@10 and nDCG@10 over all items, with intervals."
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--data", type=Path, required=True, help="file of behaviour, or a folder that holds one"
    )
    parser.add_argument("--seed", type=int, default=20260401, help="of the items' order and of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(argv)
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("shoppers", total=None)
            result = evaluate(
                given.bundle,
                given.data,
                seed=given.seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (BundleError, ProductError, ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)
    return 0
