"""Rates that change keep the mean that was asked for, and the same seed keeps every moment."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile

import pytest

from drills.rig.arrivals import DAY_SWING, bursty_arrivals, day_arrivals, varying_arrivals


def within(arrivals: Iterator[float], end_s: float) -> list[float]:
    return list(takewhile(lambda moment_s: moment_s < end_s, arrivals))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_keeps_its_mean_and_swings_from_its_quietest_moment(seed: int) -> None:
    moments = within(day_arrivals(200.0, 100.0, seed), 100.0)
    assert len(moments) == pytest.approx(20_000, rel=0.03)
    night = sum(moment < 5 or moment >= 95 for moment in moments) / 10.0
    noon = sum(45 <= moment < 55 for moment in moments) / 10.0
    assert night == pytest.approx(200 * (1 - DAY_SWING), rel=0.25)
    assert noon == pytest.approx(200 * (1 + DAY_SWING), rel=0.1)


def test_bursts_keep_the_mean_and_are_far_denser_than_a_steady_rate() -> None:
    moments = within(bursty_arrivals(100.0, 4), 600.0)
    assert len(moments) == pytest.approx(60_000, rel=0.1)
    counts = [0] * 6_000
    for moment in moments:
        counts[int(moment * 10)] += 1
    mean = sum(counts) / len(counts)
    spread = sum((count - mean) ** 2 for count in counts) / len(counts) / mean
    # Of a steady Poisson process it is 1.
    assert spread > 3


@pytest.mark.parametrize("make", [lambda: bursty_arrivals(50.0, 9), lambda: day_arrivals(50.0, 10.0, 9)])
def test_moments_ascend_and_the_same_seed_gives_the_same_ones(make: object) -> None:
    first, second = list(islice(make(), 2_000)), list(islice(make(), 2_000))  # type: ignore[operator]
    assert first == second == sorted(first)
    assert first[0] >= 0


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="not within"):
        next(varying_arrivals(lambda _: 20.0, 10.0, 1))
    with pytest.raises(ValueError, match="above 0"):
        next(day_arrivals(10.0, 0.0, 1))
