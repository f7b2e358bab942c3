"""Earn: which tiers and rankers enter the plans, and what the whole choice is worth on queries nobody saw.

The gate: query by query, the mean of nDCG@10 over the whole catalogue and over the judged products alone;
the mean difference to the next cheaper way of ranking, each set counting the same, over bootstrap resamples
of the queries. A ranker enters where the whole two-sided interval of its gain over its tier's own score is
above 0. A tier enters where its gain over the next cheaper tier that entered is above 0 in at least the
recipe's share of the resamples (`tier_confidence`), and is marked as inside the noise where the two-sided
interval holds 0. Every nDCG is out of fold, the mean over several partitions of the queries.

The gate chooses, and what is chosen looks better than it is on the queries of the choice. So the choice is
nested: for each fold, rankers are trained and the gate decides without its queries, and what comes out is
measured on them, against three fusions: that of well-known libraries (`training.baselines`), the tier
`hybrid`, and the same without tuning (`training.signals.plain_fusion`). A cross-encoder's scores are those of
the student that never saw the query; students are not trained once more for each pair of folds.

A tier that the recipe admits (`plans.admit`) enters the plans whatever the gate says of it, ordered by its
own score, so that another server with the same model orders alike. It is nothing that a dearer tier has to
beat, and no part of the nested figures.

Writes `earn/report.json`, and `earn/<tier>.txt`, the rankers that ship.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.whole_files import write_report
from training.measure import Estimate, difference, estimate
from training.rank import climb, deepest, load_out_of_fold, partition, tiers_of
from training.recipe import CROSS_TIERS, Recipe, stage_arguments
from training.signals import (
    SETTINGS,
    CandidateList,
    Measured,
    Rankers,
    both_settings,
    load_lists,
    measure,
)

FUSION = "hybrid"


@dataclass(frozen=True)
class Decision:
    """What the gate says of one tier.

    ranker: whether its ranker orders it. over: the tier it was held against, "" for the cheapest. gain: over
    that tier; ranker_gain: of its ranker over its own score. admitted: it enters without having earned it.
    """

    tier: str
    earned: bool
    ranker: bool
    over: str
    gain: Estimate | None
    ranker_gain: Estimate
    admitted: bool = False


def measured_over(
    names: Sequence[str],
    lists: Sequence[CandidateList],
    tier: str,
    depth: int,
    each: Sequence[Rankers],
    settled_pairs: int = 0,
) -> Measured:
    """nDCG@10 of one plan, query by query, the mean over partitions. each: the rankers of every partition."""
    return _mean([measure(names, lists, tier, depth, rankers, settled_pairs) for rankers in each])


def decide(
    recipe: Recipe, names: Sequence[str], lists: Sequence[CandidateList], each: Sequence[Rankers]
) -> list[Decision]:
    """The gate, on the queries of these lists. each: out-of-fold scores of all rankers, by partition."""
    plans = recipe.plans
    decisions: list[Decision] = []
    cheaper: tuple[str, dict[str, dict[str, float]]] | None = None
    for tier in tiers_of(lists):
        depth = deepest(recipe, lists, tier)
        below = adopted(decisions, each)
        with_ranker = [{**kept, tier: rankers[tier]} for kept, rankers in zip(below, each, strict=True)]
        own = both_settings(measured_over(names, lists, tier, depth, below, plans.settled_pairs))
        ranked = both_settings(measured_over(names, lists, tier, depth, with_ranker, plans.settled_pairs))
        ranker_gain = gap(recipe, ranked, own)
        ranker = ranker_gain.low > 0 and tier not in plans.admit
        best = ranked if ranker else own
        if cheaper is None:
            decisions.append(Decision(tier, True, ranker, "", None, ranker_gain))
            cheaper = (tier, best)
            continue
        # One-sided: below this bound lie the resamples that the recipe lets pass.
        confidence = 2.0 * plans.tier_confidence - 1.0
        likely = difference(best, cheaper[1], seed=recipe.seed, rounds=plans.bootstrap, interval=confidence)
        gain = gap(recipe, best, cheaper[1])
        earned = likely.low > 0
        admitted = tier in plans.admit and not earned
        decisions.append(Decision(tier, earned, ranker, cheaper[0], gain, ranker_gain, admitted))
        if earned:
            cheaper = (tier, best)
    return decisions


def adopted(decisions: Sequence[Decision], each: Sequence[Rankers]) -> list[Rankers]:
    """For each partition, the scores of the rankers that the gate let in so far."""
    let_in = {one.tier for one in decisions if one.ranker}
    return [{tier: scores for tier, scores in rankers.items() if tier in let_in} for rankers in each]


@dataclass(frozen=True)
class Nested:
    """The choice, measured on queries that had no part in it. chosen: best plan's tier, how often."""

    best: Measured
    fusion: Measured
    chosen: dict[str, int]


def nested(
    recipe: Recipe,
    names: Sequence[str],
    lists: Sequence[CandidateList],
    progress: Callable[[int], object] = lambda _: None,
) -> Nested:
    """For every fold of every partition: train and decide without it, measure on it."""
    best: list[Measured] = []
    fusion: list[Measured] = []
    chosen: dict[str, int] = {}
    for number in range(recipe.plans.partitions):
        folds = partition(recipe, lists, number)
        one_best: Measured = {setting: {} for setting in SETTINGS}
        one_fusion: Measured = {setting: {} for setting in SETTINGS}
        for fold in np.unique(folds):
            scores = climb(recipe, names, lists, folds, hidden=int(fold))
            inner, outer = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
            decisions = decide(recipe, names, [lists[at] for at in inner], [_part(scores, inner)])
            last = [one for one in decisions if one.earned][-1].tier
            chosen[last] = chosen.get(last, 0) + 1
            seen = [lists[at] for at in outer]
            rankers = adopted(decisions, [_part(scores, outer)])[0]
            depth = deepest(recipe, lists, last)
            _join(one_best, measure(names, seen, last, depth, rankers, recipe.plans.settled_pairs))
            _join(one_fusion, measure(names, seen, FUSION, 0, {}))
            progress(1)
        best.append(one_best)
        fusion.append(one_fusion)
    return Nested(_mean(best), _mean(fusion), chosen)


def earn(recipe: Recipe, run: Path, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the stage. Returns what report.json says.

    Raises: FileNotFoundError where `baselines` or `rank` has not run.
    """
    names, lists = load_lists(run / "rank" / "signals.npz")
    each = load_out_of_fold(run / "rank" / "out_of_fold.npz", lists)
    decisions = decide(recipe, names, lists, each)
    rule = (__doc__ or "").split("\n\n")[1].replace("\n", " ").removeprefix("The gate: ")
    share = f"Here the share is {recipe.plans.tier_confidence:.0%}, the interval {recipe.plans.interval:.0%}."
    note_on_gate = f" {recipe.plans.gate_note}" if recipe.plans.gate_note else ""
    report: dict[str, Any] = {"rule": f"{rule[0].upper()}{rule[1:]} {share}{note_on_gate}", "tiers": {}}
    kept = adopted(decisions, each)
    out = run / "earn"
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.txt"):
        old.unlink()
    for one in decisions:
        entry: dict[str, Any] = {
            "earned": one.earned,
            "admitted": one.admitted,
            "ranker": {"earned": one.ranker, "over_own_score": _written(one.ranker_gain)},
        }
        if one.gain is not None:
            inside = one.gain.low <= 0 <= one.gain.high
            entry |= {"over": one.over, "over_cheaper": _written(one.gain), "inside_noise": inside}
        depth = deepest(recipe, lists, one.tier)
        measured = measured_over(names, lists, one.tier, depth, kept, recipe.plans.settled_pairs)
        entry["out_of_fold"] = _estimates(recipe, measured)
        report["tiers"][one.tier] = entry
        note(f"{one.tier}: {json.dumps(entry)}")
        if one.earned and one.ranker:
            shutil.copyfile(run / "rank" / f"{one.tier}.txt", out / f"{one.tier}.txt")
    for tier in CROSS_TIERS:
        if tier not in report["tiers"]:
            report["tiers"][tier] = {"earned": False, "why": "not trained"}
    total = recipe.plans.partitions * max(3, recipe.folds)
    with tqdm(total=total, desc="nested folds", mininterval=5) as bar:
        others: dict[str, Measured] = {"plain_fusion": json.loads((run / "rank" / "plain.json").read_text())}
        if recipe.plans.baselines:
            others["library_fusion"] = json.loads((run / "baselines" / "fusion.json").read_text())
        report["nested"] = _nested_report(recipe, nested(recipe, names, lists, bar.update), others)
    write_report(out / "report.json", report)
    return report


def _nested_report(recipe: Recipe, found: Nested, others: Mapping[str, Measured]) -> dict[str, Any]:
    fusions = {"fusion": found.fusion, **others}
    return {
        "partitions": recipe.plans.partitions,
        "folds": max(3, recipe.folds),
        "chosen": found.chosen,
        "best_plan": _estimates(recipe, found.best),
        **{name: _estimates(recipe, one) for name, one in fusions.items()},
        **{f"over_{name}": _gains(recipe, found.best, one) for name, one in fusions.items()},
    }


def _gains(recipe: Recipe, better: Measured, worse: Measured) -> dict[str, Any]:
    """Setting to set to the difference, and "together" for all sets."""
    found: dict[str, Any] = {}
    for setting in SETTINGS:
        sets = better[setting]
        found[setting] = {
            name: _written(gap(recipe, {name: sets[name]}, {name: worse[setting][name]})) for name in sets
        }
        found[setting]["together"] = _written(gap(recipe, sets, worse[setting]))
    return found


def _estimates(recipe: Recipe, measured: Measured) -> dict[str, Any]:
    return {
        setting: {
            name: estimate(values, seed=recipe.seed, rounds=recipe.plans.bootstrap).rounded()
            for name, values in measured[setting].items()
        }
        for setting in SETTINGS
    }


def _part(
    scores: Mapping[str, Sequence[NDArray[np.float64]]], members: Sequence[int]
) -> dict[str, list[NDArray[np.float64]]]:
    return {tier: [of_tier[at] for at in members] for tier, of_tier in scores.items()}


def _join(whole: Measured, part: Measured) -> None:
    for setting, sets in part.items():
        for name, values in sets.items():
            whole[setting].setdefault(name, {}).update(values)


def _mean(parts: Sequence[Measured]) -> Measured:
    return {
        setting: {
            name: {query: float(np.mean([part[setting][name][query] for part in parts])) for query in values}
            for name, values in parts[0][setting].items()
        }
        for setting in SETTINGS
    }


def gap(
    recipe: Recipe, better: Mapping[str, Mapping[str, float]], worse: Mapping[str, Mapping[str, float]]
) -> Estimate:
    """`training.measure.difference` with the recipe's seed, rounds and interval."""
    return difference(
        better, worse, seed=recipe.seed, rounds=recipe.plans.bootstrap, interval=recipe.plans.interval
    )


def _written(found: Estimate) -> dict[str, float]:
    return {"difference": round(found.mean, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Which tiers and rankers enter the plans.", argv)
    earn(arguments.recipe, arguments.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
