"""Popularity and tables from sums of shoppers, each looked at once, and only with noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from training.recommend.mixture import chunks
from training.recommend.private.noise import Noise
from training.recommend.tables import largest_of_rows

_ROWS = 512
_BY_CHANCE = 3.0
"""Cells of a row that nobody stepped over and that stand out all the same, on average."""


def noisy_popularity(sums: NDArray[np.float64], noise: Noise, deviation: float) -> NDArray[np.float32]:
    """How much each item was taken: float32 [items], at least 0.

    sums: from `taken_sums`. deviation: of the noise. What is below it counts as taken by nobody: it tells
    nothing apart, and the noise of all rare items together would weigh more than what is known of the others.
    """
    found = sums + noise.gaussian("popularity", len(sums), deviation)
    return np.where(found < deviation, 0.0, found).astype(np.float32)


def noisy_steps(
    sums: sparse.csr_matrix, noise: Noise, deviation: float, *, neighbours: int
) -> sparse.csr_matrix:
    """A table of steps between items: float32 [items, items].

    sums: from `step_sums`. Every cell gets noise, those that nobody stepped over as well; then only what
    stands out of it is kept, so which cells are there tells nothing more. Kept is what is above the line
    (Donoho & Johnstone 1994, soft thresholds): what stands out by chance does so by little.
    """
    items = sums.shape[0]
    least = deviation * float(stats.norm.isf(min(_BY_CHANCE / items, 0.5)))

    def rows() -> Iterator[NDArray[np.float32]]:
        for part in chunks(items, _ROWS):
            dense = sums[part].toarray()
            dense += noise.gaussian(f"steps {part.start}", dense.size, deviation).reshape(dense.shape)
            yield np.maximum(dense - least, 0.0).astype(np.float32)

    return largest_of_rows(rows(), items, neighbours)
