"""The final order: the Rust trees against LightGBM itself."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

import rankcore
from tests.fixtures import lightgbm_forest, tiny_bundle

# Both add the same doubles in the same order; the room is for another summation order inside LightGBM.
TOLERANCE = 1e-12


@pytest.mark.parametrize("zero_as_missing", [False, True])
def test_scores_are_those_of_lightgbm(zero_as_missing: bool) -> None:
    model = lightgbm_forest.train(zero_as_missing=zero_as_missing)
    rows = lightgbm_forest.rows_to_score()
    scores = rankcore.forest_score(model.model_to_string(), rows)
    np.testing.assert_allclose(scores, model.predict(rows, raw_score=True), rtol=0, atol=TOLERANCE)
    assert len(np.unique(scores)) > 100


def test_deep_and_narrow_trees_are_those_of_lightgbm() -> None:
    random = np.random.default_rng(11)
    rows = random.normal(size=(3000, 5))
    rows[random.random(rows.shape) < 0.2] = np.nan
    target = np.sin(3 * np.nan_to_num(rows[:, 0])) + np.nan_to_num(rows[:, 1]) ** 2
    settings = {
        "objective": "regression",
        "num_leaves": 63,
        "min_data_in_leaf": 2,
        "num_threads": 1,
        "verbosity": -1,
    }
    model = lightgbm.train(settings, lightgbm.Dataset(rows, target), num_boost_round=30)
    scores = rankcore.forest_score(model.model_to_string(), rows)
    np.testing.assert_allclose(scores, model.predict(rows, raw_score=True), rtol=0, atol=1e-11)


def test_the_ranker_of_the_tiny_bundle_is_a_model_lightgbm_reads() -> None:
    text = tiny_bundle.ranker()
    model = lightgbm.Booster(model_str=text)
    random = np.random.default_rng(5)
    rows = random.uniform(-1, 2, size=(500, model.num_feature()))
    rows[random.random(rows.shape) < 0.2] = np.nan
    scores = rankcore.forest_score(text, rows)
    np.testing.assert_allclose(scores, model.predict(rows, raw_score=True), rtol=0, atol=TOLERANCE)
    assert len(np.unique(scores)) > 5


def test_a_model_that_cannot_be_scored_is_refused_with_the_reason() -> None:
    rows = np.zeros((1, 5))
    with pytest.raises(rankcore.BundleError, match="not a LightGBM text model"):
        rankcore.forest_score("forest", rows)
    with pytest.raises(ValueError, match="5 features"):
        rankcore.forest_score(tiny_bundle.ranker(), np.zeros((1, 4)))
