"""The trend is that of the weeks, whatever a single day does."""

from __future__ import annotations

import numpy as np

from muster.insight.intervals import quantiles
from muster.insight.trend import fitted


def test_a_week_that_is_odd_on_one_day_moves_nothing() -> None:
    weeks = np.arange(10)[:, None]
    logs = 5 + 0.04 * weeks + np.log([1, 1, 1, 1, 1.2, 1.5, 0.8])[None, :] + np.zeros((10, 7))
    logs[3, 2] += 3.0
    slope, _, factors, _ = fitted(logs, seed=1)
    assert abs(slope - 0.04) < 1e-9
    assert abs(factors[5] / factors[0] - 1.5) < 1e-9


def test_the_interval_holds_the_slope_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for at in range(60):
        expected = 200 * 1.02 ** np.arange(8)[:, None] * np.array([1, 1, 1, 1.1, 1.2, 1.4, 1.3])
        slope, drawn, _, _ = fitted(np.log(rng.poisson(expected)), seed=at)
        low, high = quantiles(drawn)
        assert low <= slope <= high
        held += low <= np.log(1.02) <= high
    # Eight weeks are few for resampling: 95 % would be 57.
    assert held >= 50
