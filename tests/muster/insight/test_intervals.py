"""Intervals hold the truth as often as they say, also where observations belong together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.insight.intervals import difference, mean, share, wilson


def test_wilson_gives_the_known_interval() -> None:
    assert wilson(10, 100) == pytest.approx((0.05523, 0.17437), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10)[1] == 1.0


@given(st.integers(1, 10_000), st.data())
def test_wilson_holds_the_share_and_stays_within_0_and_1(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, of))
    low, high = wilson(count, of)
    assert 0.0 <= low <= count / of <= high <= 1.0


def _clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Observations of 60 shoppers with habits of their own; the true share is .3."""
    actors = np.repeat(np.arange(60), rng.integers(1, 20, 60))
    return rng.random(len(actors)) < rng.beta(1.5, 3.5, 60)[actors], actors


def test_a_share_of_clustered_observations_is_covered_where_plain_wilson_fails() -> None:
    rng = np.random.default_rng(1)
    covered = plain = 0
    for _ in range(300):
        hits, actors = _clustered(rng)
        found = share(hits, actors)
        assert found is not None
        covered += found.low <= 0.3 <= found.high
        low, high = wilson(int(hits.sum()), len(hits))
        plain += low <= 0.3 <= high
    assert covered >= 0.92 * 300
    assert plain <= 0.80 * 300


def test_a_share_says_of_how_many_people_it_is() -> None:
    found = share(np.array([True, False, True]), np.array([7, 7, 9]))
    assert found is not None
    assert (found.count, found.of, found.people, found.counted_people) == (2, 3, 2, 2)
    assert share(np.zeros(0, dtype=bool), np.zeros(0, dtype=int)) is None


def test_a_difference_within_strata_is_covered_where_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(2)
    covered = plain = 0
    for _ in range(200):
        actors = rng.integers(0, 150, 1_500)
        strata = rng.integers(0, 4, len(actors))
        # Treated seldom where hits are frequent.
        treated = rng.random(len(actors)) < np.array([0.8, 0.6, 0.4, 0.2])[strata]
        likely = np.array([0.1, 0.2, 0.3, 0.4])[strata] + 0.1 * treated + rng.normal(0, 0.05, 150)[actors]
        hits = rng.random(len(actors)) < likely
        within, over = (
            difference(hits, actors, treated, strata),
            difference(hits, actors, treated, strata * 0),
        )
        assert within is not None
        assert over is not None
        covered += within[1] <= 0.1 <= within[2]
        plain += over[1] <= 0.1 <= over[2]
    assert covered >= 0.92 * 200
    assert plain <= 0.2 * 200


def test_without_a_stratum_that_has_both_sides_there_is_no_difference() -> None:
    hits, actors = np.ones(100, dtype=bool), np.arange(100)
    treated = np.arange(100) < 50
    assert difference(hits, actors, treated, treated.astype(int)) is None


def test_a_mean_is_resampled_by_shopper() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for at in range(60):
        totals = rng.poisson(rng.gamma(2.0, 1.0, 80)).astype(float)
        value, low, high = mean(totals, np.ones(80), seed=at)
        assert low <= value <= high
        covered += low <= 2.0 <= high
    assert covered >= 0.88 * 60
