"""Shoppers who look by position: the position-based model of clicks, by expectation maximisation.

A product is clicked if it is looked at, by its position alone, and attracts, by query and product alone
(Richardson et al. 2007; Craswell et al. 2008). What attracts is a number for each pair of them, or what a
regression says of the pair's features (Wang et al. 2018), which needs no product at two positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.clicks.answers import Answers
from training.clicks.impressions import Floats, Ints

FLOOR = 1e-6
PRIOR_LOOKS = 2.0
_TREES = {"objective": "cross_entropy", "num_leaves": 8, "min_data_in_leaf": 10, "learning_rate": 0.2}
_TREES_COUNT = 30

Attraction = Callable[[Floats, Floats], Floats]
"""From how often each pair attracted and was shown, float64 [pairs] each, what attracts: float64 [pairs]."""


@dataclass(frozen=True)
class Cells:
    """Impressions counted by (query, product) and position. pair, position (from 0): int64 [cells]; shown,
    clicked: float64 [cells], shown above 0.
    """

    pair: Ints
    position: Ints
    shown: Floats
    clicked: Floats
    pairs: int
    places: int


@dataclass(frozen=True)
class Position:
    """examined: chance that each position is looked at, float64 [places], the largest one 1; attracts:
    chance that a look becomes a click, float64 [pairs].
    """

    examined: Floats
    attracts: Floats
    name: str = "position"

    def expected(self, answers: Answers) -> Floats:
        """Chance of each click; float64 [answers, places], 0 where nothing stands."""
        return np.asarray(answers.at(self.attracts) * self.examined)


def cells_of(answers: Answers, weights: Floats) -> Cells:
    """Counts answers. weights: how often each counts, float64 [answers]."""
    there, places = answers.shown, answers.places
    cell = answers.pair * places + np.arange(places)
    weight = np.broadcast_to(weights[:, None], there.shape)[there]
    shown = np.bincount(cell[there], weight, answers.pairs * places)
    clicked = np.bincount(cell[there], weight * answers.clicked[there], answers.pairs * places)
    kept = np.flatnonzero(shown > 0)
    return Cells(
        kept // places,
        kept % places,
        shown[kept].astype(float),
        clicked[kept].astype(float),
        answers.pairs,
        places,
    )


def fit_position(
    cells: Cells,
    start: Floats,
    *,
    prior_looks: float = PRIOR_LOOKS,
    attraction: Attraction | None = None,
    rounds: int = 300,
    tolerance: float = 1e-5,
) -> Position:
    """The likeliest position-based model.

    start: examination to begin with, float64 [places]. prior_looks: looks that each pair is given at the mean
    of all. attraction: how what attracts follows from the pairs; None: each by itself.
    Source: Wang et al. 2018, "Position Bias Estimation for Unbiased Learning to Rank in Personal Search",
    section 4.1.
    """
    examined = np.clip(start, FLOOR, None)
    examined = np.clip(examined / examined.max(), FLOOR, 1 - FLOOR)
    of_position = np.maximum(np.bincount(cells.position, cells.shown, cells.places), FLOOR)
    of_pair = np.asarray(np.bincount(cells.pair, cells.shown, cells.pairs), float)

    def told(liked: Floats, looks: Floats) -> Floats:
        if attraction is not None:
            return attraction(liked, looks)
        mean = float(liked.sum()) / max(float(looks.sum()), FLOOR)
        return np.asarray((liked + prior_looks * mean) / np.maximum(looks + prior_looks, FLOOR))

    looks = np.bincount(cells.pair, cells.shown * examined[cells.position], cells.pairs)
    clicks = np.bincount(cells.pair, cells.clicked, cells.pairs)
    attracts = np.clip(told(np.minimum(clicks, looks), np.asarray(looks)), FLOOR, 1 - FLOOR)
    missed = cells.shown - cells.clicked
    for _ in range(rounds):
        e, a = examined[cells.position], attracts[cells.pair]
        not_clicked = np.maximum(1 - e * a, FLOOR)
        seen = np.bincount(cells.position, cells.clicked + missed * e * (1 - a) / not_clicked, cells.places)
        liked = np.bincount(cells.pair, cells.clicked + missed * a * (1 - e) / not_clicked, cells.pairs)
        before, examined = examined, np.clip(seen / of_position, FLOOR, 1 - FLOOR)
        attracts = np.clip(told(np.asarray(liked, float), of_pair), FLOOR, 1 - FLOOR)
        # Only the products are told apart by clicks: what is looked at most is taken to be always looked at.
        scale = examined.max()
        examined, attracts = examined / scale, np.clip(attracts * scale, FLOOR, 1 - FLOOR)
        if np.abs(examined - before).max() < tolerance:
            break
    return Position(examined, attracts)


def by_features(features: Floats, *, seed: int = 0) -> Attraction:
    """What attracts as boosted trees say of the pairs' features, float64 [pairs, features].

    The trees learn the expected labels themselves, where Wang et al. draw labels from them.
    """
    import lightgbm

    def told(liked: Floats, looks: Floats) -> Floats:
        known = looks > 0
        labels = np.clip(liked[known] / looks[known], 0, 1)
        data = lightgbm.Dataset(features[known], labels, weight=looks[known], free_raw_data=True)
        settings = {**_TREES, "seed": seed, "deterministic": True, "force_row_wise": True}
        model = lightgbm.train({**settings, "num_threads": 1, "verbosity": -1}, data, _TREES_COUNT)
        return np.asarray(model.predict(features), dtype=np.float64)

    return told
