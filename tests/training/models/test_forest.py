"""Rankers: several seeds as one model, and no score that counts against a product."""

from __future__ import annotations

from dataclasses import replace

import lightgbm
import numpy as np
import pytest

from tests.training.conftest import Workplace
from training.models.forest import Rows, merge_forests, score, train_forest, train_linear
from training.recipe import RankRecipe

NAMES = ("bm25", "late", "price_log")


def rows() -> Rows:
    random = np.random.default_rng(4)
    values = random.normal(size=(600, 3))
    values[random.random(values.shape) < 0.1] = np.nan
    worth = np.nan_to_num(values[:, 0]) + np.nan_to_num(values[:, 1])
    gains = np.where(worth > 1.5, 1.0, np.where(worth > 0.5, 0.1, 0.0))
    return Rows(values, gains, [20] * 30)


@pytest.fixture
def settings(workplace: Workplace) -> RankRecipe:
    return replace(workplace.recipe.rank, trees=12)


def test_a_merged_model_scores_the_mean_of_its_parts() -> None:
    data = rows()
    parts = []
    for seed in (1, 2, 3):
        dataset = lightgbm.Dataset(data.values, data.gains, feature_name=list(NAMES))
        options = {"num_leaves": 5, "feature_fraction": 0.5, "seed": seed, "verbosity": -1, "num_threads": 1}
        parts.append(lightgbm.train(options, dataset, num_boost_round=4 + seed).model_to_string())
    mean = np.mean([score(part, data.values) for part in parts], axis=0)
    merged = merge_forests(parts)
    np.testing.assert_allclose(score(merged, data.values), mean, rtol=0, atol=1e-12)
    assert merged.count("\nTree=") == 5 + 6 + 7
    assert merged.rstrip().endswith("end of trees")


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no model"):
        merge_forests([])


def test_a_ranker_orders_better_products_higher(settings: RankRecipe) -> None:
    data = rows()
    found = score(train_forest(settings, data, NAMES, seed=1), data.values)
    assert found[data.gains == 1.0].mean() > found[data.gains == 0.0].mean()


def test_a_better_score_never_ranks_a_product_lower(settings: RankRecipe) -> None:
    data = rows()
    model = train_forest(settings, data, NAMES, seed=1)
    base = np.nan_to_num(data.values[:50])
    steps = np.linspace(-3, 3, 25)
    for column in (0, 1):
        curves = []
        for step in steps:
            changed = base.copy()
            changed[:, column] = step
            curves.append(score(model, changed))
        assert (np.diff(np.stack(curves), axis=0) >= -1e-9).all()


def test_the_same_seed_gives_the_same_ranker(settings: RankRecipe) -> None:
    data = rows()
    assert train_forest(settings, data, NAMES, seed=1) == train_forest(settings, data, NAMES, seed=1)


def test_no_rows_have_no_scores(settings: RankRecipe) -> None:
    model = train_forest(settings, rows(), NAMES, seed=1)
    assert score(model, np.zeros((0, 3))).shape == (0,)


def test_a_linear_ranker_is_a_weighted_sum_of_its_features_alone(settings: RankRecipe) -> None:
    random = np.random.default_rng(8)
    values = random.normal(size=(900, 3))
    worth = 2.0 * values[:, 0] + values[:, 1] + random.normal(scale=0.5, size=900)
    data = Rows(values, (worth > 1.5).astype(float), [30] * 30)
    chosen = replace(settings, trees=60, features=["bm25", "late"])
    model = train_linear(chosen, data, NAMES, seed=1)
    found = score(model, values)
    assert np.corrcoef(found, 2.0 * values[:, 0] + values[:, 1])[0, 1] > 0.98
    other = values.copy()
    other[:, 2] += 100.0
    np.testing.assert_array_equal(score(model, other), found)


def test_a_linear_ranker_never_counts_a_better_score_against_a_product(settings: RankRecipe) -> None:
    random = np.random.default_rng(9)
    values = random.normal(size=(600, 3))
    # The labels say the opposite of common sense: the weight ends at 0, not below.
    data = Rows(values, (values[:, 0] < -1.0).astype(float), [20] * 30)
    model = train_linear(replace(settings, features=["bm25"]), data, NAMES, seed=1)
    low, high = np.full((1, 3), -2.0), np.full((1, 3), 2.0)
    assert score(model, high)[0] >= score(model, low)[0]
