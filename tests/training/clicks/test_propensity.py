"""Position bias is found again in clicks whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from training.clicks import propensity, simulate
from training.clicks.impressions import Impressions, Inconclusive


@pytest.fixture(scope="module")
def shown() -> Impressions:
    return simulate.draw_clicks(simulate.make_world(seed=3), answers=30_000, swap_share=0.5, seed=4)


@pytest.mark.parametrize("method", sorted(propensity.METHODS))
def test_the_truth_lies_within_the_stated_intervals(shown: Impressions, method: str) -> None:
    found = propensity.estimate(shown, method=method, rounds=40, seed=5)
    truth = simulate.make_world(seed=3).examined
    inside = (found.low <= truth) & (truth <= found.high)
    assert inside.sum() >= 8, (found, truth)
    assert np.abs(found.examined / truth - 1).max() < 0.3


@pytest.mark.parametrize("method", sorted(propensity.METHODS))
def test_clicks_without_any_swap_are_inconclusive(method: str) -> None:
    still = simulate.draw_clicks(simulate.make_world(seed=3), answers=2_000, swap_share=0.0, seed=4)
    with pytest.raises(Inconclusive, match="Swap neighbours"):
        propensity.estimate(still, method=method, rounds=5)


def test_no_click_at_all_is_inconclusive(shown: Impressions) -> None:
    silent = Impressions(shown.answer, shown.query, shown.product, shown.position, shown.clicked * 0)
    with pytest.raises(Inconclusive, match="nothing was clicked"):
        propensity.estimate(silent)


def test_swaps_happen_as_often_as_their_logged_chances_say(shown: Impressions) -> None:
    chances = simulate.swap_chances(10, 0.5)
    assert np.allclose(chances.sum(axis=0), 1) and np.allclose(chances.sum(axis=1), 1)
    world = simulate.make_world(seed=3)
    product = (shown.product % 10).reshape(-1, 10)
    ranked = world.order[shown.query.reshape(-1, 10)[:, 0]]
    for place in range(10):
        stayed = float((product[:, place] == ranked[:, place]).mean())
        assert stayed == pytest.approx(chances[place, place], abs=0.015)
