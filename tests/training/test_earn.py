"""What helps enters, what does not stays out, and the choice is measured on queries without a part in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.conftest import Workplace
from training.calibrate import shrunk
from training.earn import decide, nested
from training.measure import Estimate
from training.rank import climb, partition, tiers_of
from training.recipe import Recipe
from training.signals import SETTINGS, CandidateList

NAMES = ["bm25", "bm25_rank", "bm25_share", "dense", "fused", "late", "cross"]
CANDIDATES = 30


def made_up(queries: int, quality: dict[str, float], *, seed: int = 4) -> list[CandidateList]:
    """Lists in which each score agrees with the gains as well as `quality` says, 0 to 1."""
    random = np.random.default_rng(seed)
    lists = []
    for query in range(queries):
        for setting in SETTINGS:
            gains = (random.random(CANDIDATES) < 0.3).astype(np.float64)
            gains[0] = 1.0

            def score(share: float, gains: np.ndarray = gains) -> np.ndarray:
                return share * gains + (1.0 - share) * random.normal(size=CANDIDATES)

            found = {name: score(quality.get(name, 0.0)) for name in NAMES}
            found["bm25_rank"] = np.ones(CANDIDATES)
            values = np.column_stack([found[name] for name in NAMES])
            values[:, NAMES.index("cross")] = np.nan
            crosses = {"cross_large": score(quality["cross"])} if "cross" in quality else {}
            lists.append(
                CandidateList("shop", str(query), "train", query % 2, setting, values, gains, gains, crosses)
            )
    return lists


@pytest.fixture(scope="module")
def recipe(workplace: Workplace) -> Recipe:
    recipe = workplace.recipe
    rank = replace(
        recipe.rank, kind="linear", features=["bm25_share", "dense", "late", "fused", "cross"], trees=20
    )
    plans = replace(recipe.plans, cross_depths=[CANDIDATES], partitions=1, bootstrap=400)
    return replace(recipe, rank=rank, plans=plans)


def test_a_tier_that_helps_enters_and_one_that_does_not_stays_out(recipe: Recipe) -> None:
    lists = made_up(30, {"bm25": 0.3, "bm25_share": 0.3, "fused": 0.45, "late": 0.0, "cross": 0.9})
    scores = climb(recipe, NAMES, lists, partition(recipe, lists, 0))
    found = {one.tier: one for one in decide(recipe, NAMES, lists, [scores])}
    assert found["lexical"].earned and found["hybrid"].earned and found["cross_large"].earned
    assert found["cross_large"].over in ("hybrid", "late")
    # Late interaction is noise here: nothing but its ranker, which may look at fusion, could save it.
    assert not found["late"].earned or found["late"].ranker


def test_an_admitted_tier_is_marked_ordered_by_its_own_score_and_no_bar_for_others(recipe: Recipe) -> None:
    # The cross-encoder is noise, which its ranker alone could save.
    lists = made_up(30, {"bm25": 0.3, "bm25_share": 0.3, "fused": 0.5, "late": 0.8, "cross": 0.0})
    scores = climb(recipe, NAMES, lists, partition(recipe, lists, 0))
    plain = {one.tier: one for one in decide(recipe, NAMES, lists, [scores])}
    assert plain["cross_large"].ranker and not plain["cross_large"].admitted
    admitting = replace(recipe, plans=replace(recipe.plans, admit=["cross_large"]))
    found = {one.tier: one for one in decide(admitting, NAMES, lists, [scores])}["cross_large"]
    assert found.admitted and not found.earned and not found.ranker
    assert found.gain is not None and found.gain.high < 0


def test_an_admitted_tier_that_earns_its_place_is_not_called_admitted(recipe: Recipe) -> None:
    lists = made_up(30, {"bm25": 0.3, "bm25_share": 0.3, "fused": 0.3, "late": 0.3, "cross": 0.9})
    scores = climb(recipe, NAMES, lists, partition(recipe, lists, 0))
    admitting = replace(recipe, plans=replace(recipe.plans, admit=["cross_large"]))
    found = {one.tier: one for one in decide(admitting, NAMES, lists, [scores])}["cross_large"]
    assert found.earned and not found.admitted


def test_without_students_the_ladder_ends_with_late_interaction(recipe: Recipe) -> None:
    assert tiers_of(made_up(3, {"bm25": 0.5})) == ["lexical", "hybrid", "late"]
    assert tiers_of(made_up(3, {"cross": 0.5})) == ["lexical", "hybrid", "late", "cross_large"]


def test_a_list_is_ranked_without_its_own_labels(recipe: Recipe) -> None:
    lists = made_up(12, {"bm25": 0.4, "fused": 0.4, "late": 0.4})
    folds = partition(recipe, lists, 0)
    at = int(np.flatnonzero(folds == 0)[0])
    turned = [
        replace(one, gains=1.0 - one.gains, ideal=1.0 - one.ideal) if folds[number] == 0 else one
        for number, one in enumerate(lists)
    ]
    before, after = (climb(recipe, NAMES, these, folds)["late"][at] for these in (lists, turned))
    np.testing.assert_array_equal(before, after)


def test_a_hidden_fold_reaches_no_ranker_at_all(recipe: Recipe) -> None:
    recipe = replace(recipe, folds=3)
    lists = made_up(18, {"bm25": 0.4, "fused": 0.4, "late": 0.4})
    folds = partition(recipe, lists, 0)
    turned = [
        replace(one, gains=1.0 - one.gains, ideal=1.0 - one.ideal) if folds[number] == 1 else one
        for number, one in enumerate(lists)
    ]
    before, after = (climb(recipe, NAMES, these, folds, hidden=1) for these in (lists, turned))
    for tier, scores in before.items():
        for one, other in zip(scores, after[tier], strict=True):
            np.testing.assert_array_equal(one, other)


def test_nested_figures_cover_every_query_once_and_find_a_real_gain(recipe: Recipe) -> None:
    lists = made_up(30, {"bm25": 0.3, "bm25_share": 0.3, "fused": 0.3, "late": 0.3, "cross": 0.9})
    steps: list[int] = []
    found = nested(replace(recipe, plans=replace(recipe.plans, partitions=2)), NAMES, lists, steps.append)
    assert len(steps) == 2 * 3 == sum(found.chosen.values())
    for setting in SETTINGS:
        assert set(found.best[setting]["shop"]) == {one.query_id for one in lists}
    best, fusion = (np.mean(list(one["judged"]["shop"].values())) for one in (found.best, found.fusion))
    assert best > fusion + 0.1


def test_a_gain_is_shrunk_by_its_uncertainty() -> None:
    assert shrunk(Estimate(0.04, 0.039, 0.041), 0.95) == pytest.approx(0.04, rel=1e-3)
    # A standard error of .01: a quarter of the gain squared.
    assert shrunk(Estimate(0.02, 0.02 - 0.0196, 0.02 + 0.0196), 0.95) == pytest.approx(0.015, rel=1e-3)
    assert shrunk(Estimate(0.005, -0.015, 0.025), 0.95) == 0.0
    assert shrunk(Estimate(-0.02, -0.03, -0.01), 0.95) == 0.0
