"""When requests arrive where the rate changes: bursts, and the course of a day.

Poisson processes whose rate varies, by thinning (Lewis & Shedler, Naval Research Logistics 26, 1979):
candidates at the highest rate, each kept with the share that the rate of its moment is of it. The mean rate
is the one asked for, and the same seed gives the same moments.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from drills.rig.load import poisson_arrivals

DAY_SWING = 0.8
"""Of the mean: what a shop's busiest hour has more, and its quietest has less, than the mean."""
BURST_TIMES = 5.0
"""The rate within a burst, as a multiple of the rate between two."""
BURST_S, CALM_S = 0.5, 4.5
"""Mean length of a burst and of the time between two; both are drawn from exponential distributions."""


def varying_arrivals(rate_at: Callable[[float], float], rate_max_per_s: float, seed: int) -> Iterator[float]:
    """Endless arrival times in seconds from 0, ascending. rate_at: per second, at most rate_max_per_s, asked
    in ascending order of seconds. Raises: ValueError where it is more.
    """
    draw = random.Random(seed)
    for moment_s in poisson_arrivals(rate_max_per_s, seed):
        rate = rate_at(moment_s)
        if not 0 <= rate <= rate_max_per_s * (1 + 1e-9):
            raise ValueError(f"a rate of {rate} at {moment_s} s is not within 0 to {rate_max_per_s}")
        if draw.random() * rate_max_per_s < rate:
            yield moment_s


def day_arrivals(rate_per_s: float, day_s: float, seed: int) -> Iterator[float]:
    """A day of so many seconds over and over, from its quietest moment: one swing of a sine, 0.2 to 1.8 times
    the mean.
    """
    if not day_s > 0:
        raise ValueError(f"day_s must be above 0, got {day_s}")

    def rate_at(moment_s: float) -> float:
        return rate_per_s * (1 - DAY_SWING * math.cos(2 * math.pi * moment_s / day_s))

    return varying_arrivals(rate_at, rate_per_s * (1 + DAY_SWING), seed)


def bursty_arrivals(rate_per_s: float, seed: int) -> Iterator[float]:
    """Bursts of half a second on average, five times as dense as the four and a half seconds between them."""
    calm_per_s = rate_per_s * (BURST_S + CALM_S) / (BURST_TIMES * BURST_S + CALM_S)
    lengths = random.Random(seed + 1)
    state = {"bursting": False, "until_s": lengths.expovariate(1 / CALM_S)}

    def rate_at(moment_s: float) -> float:
        while moment_s >= state["until_s"]:
            state["bursting"] = not state["bursting"]
            state["until_s"] += lengths.expovariate(1 / (BURST_S if state["bursting"] else CALM_S))
        return calm_per_s * (BURST_TIMES if state["bursting"] else 1.0)

    return varying_arrivals(rate_at, BURST_TIMES * calm_per_s, seed)
