"""Measures agree with each other and with figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.measure import (
    best_first,
    difference,
    estimate,
    fast_ndcg,
    ndcg_by_query,
    random_ndcg,
    whole_gains,
)


def test_ndcg_is_linear_in_gain() -> None:
    gains = {"q": {"a": 1.0, "b": 0.1, "c": 0.0}}
    found = ndcg_by_query(gains, {"q": ["b", "a"]})["q"]
    discount = 1 / np.log2(3)
    assert found == pytest.approx((0.1 + 1.0 * discount) / (1.0 + 0.1 * discount), abs=1e-9)


def test_unjudged_products_count_nothing_and_a_missing_ranking_scores_0() -> None:
    gains = {"a": {"x": 3.0}, "b": {"x": 3.0}, "hopeless": {"x": 0.0}}
    found = ndcg_by_query(gains, {"a": ["unknown", "x"]})
    assert found == {"a": pytest.approx(1 / np.log2(3)), "b": 0.0}


def test_the_fast_measure_is_the_slow_one() -> None:
    random = np.random.default_rng(1)
    for _ in range(30):
        size = int(random.integers(2, 40))
        gains = random.choice([0.0, 0.01, 0.1, 1.0], size=size)
        gains[0] = 1.0
        order = random.permutation(size)
        keys = [f"p{at}" for at in range(size)]
        slow = ndcg_by_query(
            {"q": dict(zip(keys, gains.tolist(), strict=True))}, {"q": [keys[at] for at in order]}
        )
        assert fast_ndcg(gains, order, gains) == pytest.approx(slow["q"], abs=1e-9)


def test_gains_become_whole_numbers_in_proportion() -> None:
    assert whole_gains({"q": {"a": 1.0, "b": 0.1, "c": 0.01}}) == {"q": {"a": 100, "b": 10, "c": 1}}
    assert whole_gains({"q": {"a": 3.0, "b": 0.0}}) == {"q": {"a": 3, "b": 0}}
    with pytest.raises(ValueError, match="six decimals"):
        whole_gains({"q": {"a": 1 / 3}})


def test_an_interval_holds_its_mean_and_narrows_with_more_queries() -> None:
    values = np.random.default_rng(2).random(400).tolist()
    few, many = estimate(values[:20], seed=1), estimate(values, seed=1)
    for one in (few, many):
        assert one.low <= one.mean <= one.high
    assert many.high - many.low < few.high - few.low
    with pytest.raises(ValueError, match="no query"):
        estimate([], seed=1)


def test_a_difference_pairs_queries_and_weighs_sets_alike() -> None:
    better = {"big": {str(at): 0.5 for at in range(90)}, "small": {str(at): 0.9 for at in range(10)}}
    worse = {"big": {str(at): 0.5 for at in range(90)}, "small": {str(at): 0.7 for at in range(10)}}
    gap = difference(better, worse, seed=1)
    assert gap.mean == pytest.approx(0.1)
    assert gap.low == pytest.approx(0.1)
    with pytest.raises(ValueError, match="other queries of big"):
        difference({"big": {"1": 0.5}}, {"big": {"2": 0.5}}, seed=1)


def test_random_order_is_worse_than_perfect_and_better_than_nothing() -> None:
    gains = {"q": {f"p{at}": float(at == 0) for at in range(30)}}
    assert 0.0 < random_ndcg(gains, seed=1, rounds=200)["q"] < 0.5


def test_unknown_scores_come_last_and_ties_stay_as_they_came() -> None:
    assert best_first(np.array([np.nan, 1.0, 2.0, 1.0])).tolist() == [2, 1, 3, 0]
