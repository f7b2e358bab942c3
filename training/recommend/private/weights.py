"""The weights of the mixture, learnt from shoppers' next items with noise.

The rounds of `training.recommend.mixture.fit_weights`, few of them. In each a shopper adds how much each
source has to do with his next item: shares that sum to 1, so their length is at most 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.recommend.private.noise import Noise, on_grid

ROUNDS = 10


def private_weights(found: NDArray[np.float64], noise: Noise, deviation: float) -> NDArray[np.float64]:
    """Weights of the sources, at least 0 and 1 together.

    found: [shoppers, sources], from `training.recommend.mixture.target_shares`, one case a shopper.
    deviation: of the noise of each of ROUNDS rounds.
    """
    sources = found.shape[1]
    weights = np.full(sources, 1.0 / sources)
    for number in range(ROUNDS):
        told = shopper_parts(found, weights).sum(axis=0)
        told += noise.gaussian(f"weights {number}", sources, deviation)
        kept = np.maximum(told, 0.0)
        if kept.sum() > 0:
            weights = kept / kept.sum()
    return weights


def shopper_parts(found: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each shopper adds to a round: float64 [shoppers, sources], rows of length at most 1."""
    parts = found * weights
    whole = parts.sum(axis=1, keepdims=True)
    return on_grid(np.divide(parts, whole, out=np.zeros_like(parts), where=whole > 0))
