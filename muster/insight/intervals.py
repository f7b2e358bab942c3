"""Intervals of 95 %, of figures whose observations belong to shoppers: one shopper's are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muster.insight.events import Ints, Mask, numbered

Z = 1.959963984540054
RESAMPLES = 999
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval. count: what it counts; of: how many it is of; people: how many shoppers;
    counted_people: how many of them are behind the count.
    """

    value: float
    low: float
    high: float
    count: int
    of: int
    people: int
    counted_people: int

    def row(self, **group: Any) -> dict[str, Any]:
        """As a row of a table."""
        return {
            **group,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "of": self.of,
            "people": self.people,
            "counted_people": self.counted_people,
        }


def wilson(count: float, of: float) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927). of: above 0; it need not be whole."""
    share, square = count / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return (0.0 if count == 0 else max(middle - half, 0.0)), (1.0 if count == of else min(middle + half, 1.0))


def share(hits: Mask, actors: Ints) -> Estimate | None:
    """The share of observations that are hits; None: there are none.

    The interval is Wilson's with as many observations as these are worth: their number by the design effect
    of shoppers as clusters (Dean & Pagano 2015), which is never taken to be below 1.
    """
    of = len(hits)
    if not of:
        return None
    clusters = numbered(actors)
    sizes, counts = np.bincount(clusters), np.bincount(clusters, hits)
    count, people = int(hits.sum()), len(sizes)
    value = count / of
    effect = 1.0
    if 0 < count < of and people > 1:
        variance = people / (people - 1) * float(np.sum((counts - value * sizes) ** 2)) / of**2
        effect = max(variance / (value * (1 - value) / of), 1.0)
    worth = of / effect
    low, high = wilson(value * worth, worth)
    return Estimate(value, low, high, count, of, people, int(np.count_nonzero(counts)))


def difference(
    hits: Mask, actors: Ints, treated: Mask, strata: Ints, least: int = 20
) -> tuple[float, float, float, int] | None:
    """By how much the share of the treated is above that of the others: value, low, high, observations used.

    Compared within strata, each weighted by its size; one with fewer than `least` on either side is left out.
    The variance is that of the linearised estimate with shoppers as clusters, who may be on both sides.
    None: no stratum has enough.
    """
    strata = numbered(strata)
    sizes = np.stack([np.bincount(strata[~treated], minlength=int(strata.max(initial=0)) + 1),
                      np.bincount(strata[treated], minlength=int(strata.max(initial=0)) + 1)])  # fmt: skip
    used = np.flatnonzero((sizes >= least).all(axis=0))
    inside = np.isin(strata, used)
    total = int(inside.sum())
    if not total:
        return None
    hits, actors, treated, strata = hits[inside], numbered(actors[inside]), treated[inside], strata[inside]
    side = treated.astype(np.int64)
    means = np.zeros(sizes.shape)
    np.add.at(means, (side, strata), hits.astype(np.float64))
    means[:, used] /= sizes[:, used]
    weights = sizes.sum(axis=0) / total
    value = float(np.sum(weights[used] * (means[1, used] - means[0, used])))
    pull = (2 * side - 1) * weights[strata] * (hits - means[side, strata]) / sizes[side, strata]
    of_actor = np.bincount(actors, pull)
    people = len(of_actor)
    half = Z * math.sqrt(people / max(people - 1, 1) * float(np.sum(of_actor**2)))
    return value, value - half, value + half, total


def mean(totals: Floats, counts: Floats, seed: int = 0) -> tuple[float, float, float]:
    """The sum of `totals` by that of `counts`, one entry a shopper, resampled by shopper (percentiles)."""
    rng = np.random.default_rng(seed)
    size = len(totals)
    resamples = RESAMPLES if size <= 50_000 else 199
    drawn = np.empty(resamples)
    for at in range(resamples):
        weights = np.bincount(rng.integers(0, size, size), minlength=size)
        drawn[at] = (weights @ totals) / max(float(weights @ counts), 1.0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(totals.sum() / counts.sum()), float(low), float(high)


def student(freedom: int) -> float:
    """The .975 quantile of Student's t (Abramowitz & Stegun 26.7.5); within 1 % from three degrees on."""
    z = Z
    return float(
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
