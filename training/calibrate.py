"""Calibrate: what each plan is worth on queries it has not seen, and what it costs on this machine.

Worth is the out-of-fold nDCG@10 of the queries that the gate saw, the mean of both settings (whole catalogue,
judged products alone), each set counting the same. What a planner is told is less: each plan's gain over the
best cheaper one is shrunk by its uncertainty, so that a gain inside the noise buys little time. Cost is the
engine's median time for one query on one core; a server measures its own at warm-up, so this only has to be
in proportion. A plan that is worth no more than a cheaper one is left out, but for those of a tier that the
recipe admits: a planner is told that they are worth a hair more than the best cheaper one. Writes
`calibration.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.earn import gap, measured_over
from training.engine import Catalogue, open_catalogue
from training.export import write_draft
from training.measure import Estimate, best_first, fast_ndcg
from training.models.forest import score
from training.prepare import load_prepared
from training.rank import load_out_of_fold
from training.recipe import CROSS_TIERS, Recipe, stage_arguments
from training.signals import CandidateList, both_settings, load_lists, order_of

_TIMED_QUERIES = 40
_COMPARED_QUERIES = 12
# The least by which plans are told apart when written; any price at all outweighs it.
_ADMITTED_GAIN = 0.0001


def candidate_plans(recipe: Recipe, earned: Sequence[str]) -> list[tuple[str, int]]:
    """(tier, depth) of every plan worth measuring, cheapest first."""
    depths = {"late": recipe.plans.late_depths} | dict.fromkeys(CROSS_TIERS, recipe.plans.cross_depths)
    return [(tier, depth) for tier in earned for depth in depths.get(tier, [0])]


def calibrate(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Run the stage. Returns what calibration.json says."""
    report = json.loads((run / "earn" / "report.json").read_text())
    names, lists = load_lists(run / "rank" / "signals.npz")
    admitted = {tier for tier, entry in report["tiers"].items() if entry.get("admitted")}
    earned = [tier for tier, entry in report["tiers"].items() if entry["earned"] or tier in admitted]
    plans = candidate_plans(recipe, earned)
    trained = {path.stem: path for path in sorted((run / "earn").glob("*.txt"))}
    # Only rankers of tiers in the plans are shipped, so only those may order anything here.
    each = [
        {tier: scores for tier, scores in rankers.items() if tier in trained}
        for rankers in load_out_of_fold(run / "rank" / "out_of_fold.npz", lists)
    ]
    draft = run / "calibrate"
    write_draft(recipe, run, draft, rankers=trained, tiers=earned)
    costs, agreement = _drive(recipe, run, draft, names, lists, plans, trained)
    rows: list[dict[str, Any]] = []
    best: tuple[float, dict[str, dict[str, float]]] | None = None
    for tier, depth in plans:
        settled_pairs = recipe.plans.settled_pairs if tier in CROSS_TIERS else 0
        worth = both_settings(measured_over(names, lists, tier, depth, each, settled_pairs))
        nothing = {name: dict.fromkeys(values, 0.0) for name, values in worth.items()}
        found = gap(recipe, worth, nothing)
        expected = found.mean
        if best is not None:
            expected = best[0] + shrunk(gap(recipe, worth, best[1]), recipe.plans.interval)
        expected = round(expected, 4)
        if best is not None and tier in admitted:
            expected = round(max(expected, best[0] + _ADMITTED_GAIN), 4)
        kept = best is None or expected > best[0]
        rows.append(
            {
                "tier": tier,
                "depth": depth,
                "width": recipe.plans.width,
                "expected_ndcg": expected,
                "measured_ndcg": round(found.mean, 4),
                "low": round(min(found.low, expected), 4),
                "high": round(max(found.high, expected), 4),
                "cost_ms": round(costs[tier, depth], 3),
                "settled_pairs": settled_pairs,
                "kept": kept,
            }
        )
        if kept:
            best = (expected, worth)
    result = {"plans": rows, "agreement_with_engine": agreement}
    (run / "calibration.json").write_text(json.dumps(result, indent=2))
    return result


def shrunk(gain: Estimate, interval: float) -> float:
    """A gain drawn towards 0 by its uncertainty, never below 0.

    The positive-part James-Stein factor (Efron & Morris 1973), 1 - variance / gain squared, with the standard
    error that the width of the bootstrap interval implies.
    """
    error = (gain.high - gain.low) / (2.0 * statistics.NormalDist().inv_cdf(0.5 + interval / 2.0))
    if gain.mean <= error:
        return 0.0
    return gain.mean * (1.0 - (error / gain.mean) ** 2)


def _drive(
    recipe: Recipe,
    run: Path,
    bundle: Path,
    names: Sequence[str],
    lists: Sequence[CandidateList],
    plans: Sequence[tuple[str, int]],
    trained: dict[str, Path],
) -> tuple[dict[tuple[str, int], float], dict[str, float]]:
    """Time the plans, and compare the engine's orders with those that the figures were computed from."""
    prepared = load_prepared(run)
    times: dict[tuple[str, int], list[float]] = {plan: [] for plan in plans}
    same: dict[str, list[float]] = {tier: [] for tier, _ in plans}
    for one in recipe.judged():
        texts = {
            query.query_id: query.text
            for split in recipe.rank.splits
            for query in prepared.of(one.name, split)
        }
        with open_catalogue(
            bundle, prepared.products[one.name].values(), cache=run / "catalogues"
        ) as catalogue:
            for query in list(texts.values())[:_TIMED_QUERIES]:
                for tier, depth in plans:
                    started = time.perf_counter()
                    catalogue.search(query, tier, depth, recipe.plans.width, results=10)
                    times[tier, depth].append((time.perf_counter() - started) * 1e3)
            of_set = [entry for entry in lists if entry.set == one.name and entry.setting == "catalogue"]
            for entry in of_set[:_COMPARED_QUERIES]:
                for tier in same:
                    if not tier.startswith("cross"):
                        same[tier].append(
                            _agreement(recipe, catalogue, texts[entry.query_id], names, tier, trained)
                        )
    costs = {plan: statistics.median(found) for plan, found in times.items()}
    return costs, {tier: round(statistics.mean(found), 4) for tier, found in same.items() if found}


def _agreement(
    recipe: Recipe,
    catalogue: Catalogue,
    query: str,
    names: Sequence[str],
    tier: str,
    trained: dict[str, Path],
) -> float:
    """Share of the engine's first ten that this room's own ordering of the same signals has there too."""
    found = catalogue.signals(query, "late", product_ids=None, width=recipe.plans.width)
    one = CandidateList("", "", "", 0, "catalogue", found.values, np.zeros(len(found.values)), np.ones(1))
    ranker = None
    if tier in trained:
        ranker = [score(trained[tier].read_text(), one.signals(names, tier))]
    depth = recipe.plans.late_depths[-1] if tier == "late" else 0
    order = order_of(names, one, 0, tier, depth, {tier: ranker})
    ours = {found.product_ids[at] for at in order[:10]}
    theirs = {key for key, _ in catalogue.search(query, tier, depth, recipe.plans.width, results=10)}
    return len(ours & theirs) / max(1, len(theirs))


def untrained_scores(
    names: Sequence[str], lists: Sequence[CandidateList]
) -> dict[str, dict[str, dict[str, float]]]:
    """nDCG@10 of the untrained scores on the same queries: score to setting to set to mean."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one in lists:
        for name in ("bm25", "dense", "fused", "late"):
            order = best_first(one.values[:, names.index(name)])
            value = fast_ndcg(one.gains, order, one.ideal)
            found.setdefault(name, {}).setdefault(one.setting, {}).setdefault(one.set, []).append(value)
    return {
        name: {
            setting: {key: round(statistics.mean(values), 4) for key, values in sets.items()}
            for setting, sets in settings.items()
        }
        for name, settings in found.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Worth and cost of every plan.", argv)
    print(json.dumps(calibrate(arguments.recipe, arguments.run), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
