"""How far apart two configurations are, run by run, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4_000


@dataclass(frozen=True)
class Difference:
    """Mean of the second less the first of each pair. low, high: its interval; None: too few pairs."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def less(self) -> bool:
        """Surely below 0."""
        return self.high is not None and self.high < 0

    @property
    def more(self) -> bool:
        """Surely above 0."""
        return self.low is not None and self.low > 0


def paired(
    before: Sequence[float], after: Sequence[float], *, confidence: float, seed: int = 1
) -> Difference:
    """The mean difference of pairs with its bootstrap-t interval: studentised, because the plain percentile
    interval is too short for ten pairs.

    confidence: of the two-sided interval, 0 to 1. Raises: ValueError unless there are as many of both, at
    least one.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} values do not make pairs")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    count, mean = len(differences), float(differences.mean())
    if count < 3:
        return Difference(mean)
    spread = float(differences.std(ddof=1)) / count**0.5
    if spread == 0.0:
        return Difference(mean, mean, mean)
    drawn = np.random.default_rng(seed).choice(differences, size=(RESAMPLES, count))
    spreads = drawn.std(axis=1, ddof=1) / count**0.5
    told = spreads > 0.0
    ratios = (drawn.mean(axis=1)[told] - mean) / spreads[told]
    tail = (1.0 - confidence) / 2.0
    low_ratio, high_ratio = np.quantile(ratios, [tail, 1.0 - tail])
    return Difference(mean, mean - float(high_ratio) * spread, mean - float(low_ratio) * spread)
