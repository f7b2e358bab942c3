"""Figures over all items, as an evaluator of their own gives them."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest

from training.measure import estimate
from training.recommend.measured import gap, hits, interval_of, ndcg, target_ranks


def test_ranks_hits_and_ndcg_are_those_of_ir_measures() -> None:
    chooser = np.random.default_rng(4)
    scores = chooser.random((30, 40)).astype(np.float32)
    targets = chooser.integers(0, 40, size=30)
    ranks = target_ranks(scores, targets)
    qrels = {str(case): {str(target): 1} for case, target in enumerate(targets)}
    run = {
        str(case): {str(item): float(one) for item, one in enumerate(row)} for case, row in enumerate(scores)
    }
    for measure, found in ((ir_measures.nDCG @ 10, ndcg(ranks)), (ir_measures.Success @ 10, hits(ranks))):
        wanted = {one.query_id: one.value for one in ir_measures.iter_calc([measure], qrels, run)}
        assert found == pytest.approx([wanted[str(case)] for case in range(30)])


def test_ties_are_broken_by_place_and_never_for_the_target() -> None:
    scores = np.array([[1.0, 1.0, 1.0]], dtype=np.float32)
    assert [int(target_ranks(scores, np.array([at]))[0]) for at in range(3)] == [0, 1, 2]


def test_a_target_that_must_not_be_named_is_missed() -> None:
    scores = np.array([[-np.inf, 1.0, -np.inf]], dtype=np.float32)
    assert target_ranks(scores, np.array([2])).tolist() == [3]


def test_the_interval_is_that_of_drawing_cases_one_by_one() -> None:
    values = ndcg(np.random.default_rng(5).integers(0, 40, size=400))
    ours, slow = interval_of(values, seed=6, rounds=4000), estimate(values.tolist(), seed=7, rounds=4000)
    assert ours.mean == pytest.approx(slow.mean)
    assert (ours.low, ours.high) == pytest.approx((slow.low, slow.high), abs=0.004)


def test_where_shoppers_have_several_cases_shoppers_are_drawn_and_the_interval_is_wider() -> None:
    values = np.repeat(np.random.default_rng(5).integers(0, 2, size=60), 10).astype(np.float64)
    users = [str(at // 10) for at in range(600)]
    apart = interval_of(values, seed=6, rounds=2000)
    together = interval_of(values, seed=6, rounds=2000, users=users)
    assert together.mean == apart.mean
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    ones = [str(at) for at in range(600)]
    assert interval_of(values, seed=6, rounds=2000, users=ones) == apart


def test_a_gap_compares_case_by_case() -> None:
    better, worse = np.array([0, 0, 20]), np.array([1, 0, 20])
    found = gap(better, worse, seed=1, rounds=500)
    assert found["ndcg10"] == pytest.approx((1 - 1 / np.log2(3)) / 3, abs=1e-4)
    assert found["low"] >= 0.0


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(ValueError, match="no case"):
        interval_of(np.empty(0), seed=1, rounds=100)
