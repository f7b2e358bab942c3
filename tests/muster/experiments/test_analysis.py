from __future__ import annotations

import numpy as np
import pytest

from muster.experiments.analysis import (
    Rate,
    always_valid,
    sample_ratio_p,
    shoppers_needed,
    sign_test_p,
)
from muster.experiments.assignment import ExperimentRefused


def test_known_values_of_the_tests() -> None:
    stats = pytest.importorskip("scipy.stats")
    for counts in ((510, 490), (300, 340, 360), (100, 140, 120, 90), (50, 60, 40, 70, 55)):
        shares = {str(at): 1 / len(counts) for at in range(len(counts))}
        wanted = stats.chisquare(counts).pvalue
        assert sample_ratio_p({str(at): n for at, n in enumerate(counts)}, shares) == pytest.approx(wanted)
    for wins, losses in ((8, 2), (0, 0), (1_000, 1_100), (5, 5)):
        wanted = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert sign_test_p(wins, losses) == pytest.approx(wanted)


def test_looking_after_each_hundred_shoppers_seldom_raises_a_false_alarm() -> None:
    rng = np.random.default_rng(11)
    sequential = fixed = 0
    runs = 400
    for _ in range(runs):
        hits = rng.random((2, 4_000)) < 0.1
        done = hits.cumsum(axis=1)
        wrong_always = wrong_once = False
        for each in range(100, 4_001, 100):
            control, variant = (Rate(each, int(done[side, each - 1])) for side in (0, 1))
            found = always_valid(control, variant)
            wrong_always |= found.low > 0 or found.high < 0
            spread = sum(rate.value * (1 - rate.value) / each for rate in (control, variant))
            wrong_once |= abs(found.value) > 1.96 * spread**0.5
        sequential += wrong_always
        fixed += wrong_once
    # The usual interval, looked at forty times, is the control: it must be wrong far more often than 5 %.
    assert sequential / runs <= 0.05
    assert fixed / runs > 0.15


def test_a_true_difference_is_found() -> None:
    found = always_valid(Rate(20_000, 2_000), Rate(20_000, 2_400))
    assert 0 < found.low < 0.02 < found.high


def test_the_planned_number_gives_the_planned_power() -> None:
    each = shoppers_needed(0.1, 0.02) // 2
    rng = np.random.default_rng(12)
    control, variant = rng.binomial(each, 0.1, 4_000) / each, rng.binomial(each, 0.12, 4_000) / each
    spread = (control * (1 - control) + variant * (1 - variant)) / each
    assert float((np.abs(variant - control) > 1.96 * spread**0.5).mean()) == pytest.approx(0.8, abs=0.03)


def test_broken_shares_are_noticed() -> None:
    assert sample_ratio_p({"a": 5_000, "b": 4_600}, {"a": 0.5, "b": 0.5}) < 0.001


@pytest.mark.parametrize(("rate", "change"), [(0, 0.1), (0.5, 0.0), (0.5, 0.6), (float("nan"), 0.1)])
def test_impossible_plans_are_refused(rate: float, change: float) -> None:
    with pytest.raises(ExperimentRefused):
        shoppers_needed(rate, change)


def test_more_successes_than_shoppers_are_refused() -> None:
    with pytest.raises(ExperimentRefused):
        Rate(1, 2)
