"""Answers as rows: what stood at each position and what was clicked, as models of browsing need it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.clicks.impressions import Floats, Impressions, Inconclusive, Ints


@dataclass(frozen=True)
class Answers:
    """Answers whose products stand at the positions from the first on, without a gap.

    pair: (query, product) at each position, -1 behind the last product; clicked: whether it was clicked;
    both [answers, places]. pairs: how many there are. gaps: answers left out because a position was missing.
    """

    pair: Ints
    clicked: NDArray[np.bool_]
    pairs: int
    gaps: int

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def places(self) -> int:
        """The most products of an answer."""
        return int(self.pair.shape[1])

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Where a product stands: bool [answers, places]."""
        return self.pair >= 0

    def at(self, values: Floats) -> Floats:
        """The value of each product's pair, 0 where none stands: float64 [answers, places]."""
        return np.where(self.shown, values[np.maximum(self.pair, 0)], 0.0)

    def by_pair(self, values: Floats | NDArray[np.bool_], weights: Floats) -> Floats:
        """Sums over the pairs: float64 [pairs]. values: [answers, places]; weights: [answers]."""
        # Where nothing stands counts for a pair of its own, which is cut off.
        pair = np.where(self.shown, self.pair, self.pairs).ravel()
        return np.asarray(np.bincount(pair, (values * weights[:, None]).ravel(), self.pairs + 1)[:-1], float)

    def by_place(self, values: Floats, weights: Floats) -> Floats:
        """Sums over the places: float64 [places]. values: [answers, places]; weights: [answers]."""
        return np.asarray(weights @ np.where(self.shown, values, 0.0))


def as_answers(shown: Impressions) -> Answers:
    """The answers of a log, in their order. Raises: Inconclusive where every one has a gap."""
    pair, pairs = shown.pairs()
    grid = np.full((shown.answers, shown.places), -1, dtype=np.int64)
    clicked = np.zeros(grid.shape, dtype=bool)
    grid[shown.answer, shown.position - 1] = pair
    clicked[shown.answer, shown.position - 1] = shown.clicked > 0
    there = grid >= 0
    whole = ~(there[:, 1:] & ~there[:, :-1]).any(axis=1)
    if not whole.any():
        raise Inconclusive("no answer holds all positions from the first on: log what was not clicked too")
    return Answers(grid[whole], clicked[whole], pairs, int((~whole).sum()))
