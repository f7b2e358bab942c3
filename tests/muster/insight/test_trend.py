"""The trend is that of the weeks, whatever a single day does."""

from __future__ import annotations

import numpy as np
import pytest

from muster.insight.intervals import student
from muster.insight.trend import growth_of, pattern_of

_WEIGHTS = np.array([1, 1, 1, 1.1, 1.2, 1.4, 1.3])


def test_a_week_that_is_odd_on_one_day_does_not_move_the_trend() -> None:
    logs = 5 + 0.04 * np.arange(10)[:, None] + np.log(_WEIGHTS)[None, :]
    logs[3, 2] += 3.0
    slope, low, high = growth_of(logs)
    assert abs(slope - 0.04) < 1e-9
    assert low <= 0.04 + 1e-9
    assert high >= 0.04 - 1e-9


@pytest.mark.parametrize("together", [0.0, 0.08])
def test_the_interval_holds_the_slope_about_as_often_as_it_says(together: float) -> None:
    """together: the noise that all days of a week share."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        expected = 200 * 1.02 ** np.arange(8)[:, None] * _WEIGHTS * np.exp(rng.normal(0, together, (8, 1)))
        slope, low, high = growth_of(np.log(rng.poisson(expected)))
        assert low <= slope <= high
        held += low <= np.log(1.02) <= high
    assert held >= 0.93 * 200


def test_the_pattern_of_the_week_is_covered_day_by_day() -> None:
    rng = np.random.default_rng(5)
    truth = _WEIGHTS / np.exp(np.mean(np.log(_WEIGHTS)))
    held = 0
    for _ in range(100):
        expected = 200 * 1.02 ** (np.arange(56) / 7).reshape(8, 7) * _WEIGHTS
        logs = np.log(rng.poisson(expected))
        _, low, high = pattern_of(logs, np.log(1.02))
        held += int(((low <= truth) & (truth <= high)).sum())
    assert held >= 0.93 * 700


def test_student_is_close_to_the_known_quantiles() -> None:
    for freedom, known in ((3, 3.182), (7, 2.365), (30, 2.042)):
        assert student(freedom) == pytest.approx(known, rel=0.01)
