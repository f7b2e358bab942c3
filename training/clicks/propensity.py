"""Position bias: the probability that a position is looked at, from clicks, relative to the first one.

The position-based model says: a product is clicked if it is examined, by its position alone, and attracts, by
query and product alone (Richardson et al. 2007; Craswell et al. 2008). Both estimates need products that were
seen at different positions for the same query; without them bias and attraction cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.clicks.impressions import Floats, Impressions, Inconclusive, Ints

FLOOR = 1e-6


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
class Propensities:
    """examined: probability that each position is looked at, relative to the first; low, high: bounds
    of 95 %, by the bootstrap over answers; float64 [places] each. rounds: resamples that gave an
    estimate.
    """

    examined: Floats
    low: Floats
    high: Floats
    method: str
    rounds: int


def count(shown: Impressions, weights: Floats | None = None) -> Cells:
    """Counts impressions; weights: how often each answer counts, float64 [answers], by default once."""
    pair, pairs = shown.pairs()
    places = shown.places
    cell = pair * places + shown.position - 1
    weight = None if weights is None else weights[shown.answer]
    counted = np.bincount(cell, weight, pairs * places)
    clicks = np.bincount(cell, shown.clicked if weight is None else weight * shown.clicked, pairs * places)
    kept = np.flatnonzero(counted > 0)
    return Cells(
        kept // places, kept % places, counted[kept].astype(float), clicks[kept].astype(float), pairs, places
    )


def by_interventions(cells: Cells) -> Floats:
    """Examination from the same (query, product) at different positions; float64 [places], the first one 1.

    The ratio for two positions is the Mantel-Haenszel rate ratio over the pairs that both have shown; the
    ratios of all positions are joined by least squares on their logarithms, weighted by Greenland & Robins'
    variance. Source: Agarwal et al. 2019, "Estimating Position Bias without Intrusive Interventions",
    arXiv:1812.05161.
    Raises: Inconclusive where a position has no clicked pair in common with the others.
    """
    shown = np.zeros((cells.pairs, cells.places))
    clicked = np.zeros_like(shown)
    shown[cells.pair, cells.position] = cells.shown
    clicked[cells.pair, cells.position] = cells.clicked
    rows, values, weights = [], [], []
    for one in range(cells.places):
        for other in range(one + 1, cells.places):
            total = shown[:, one] + shown[:, other]
            both = (shown[:, one] > 0) & (shown[:, other] > 0)
            n1, n2, total = shown[both, one], shown[both, other], total[both]
            c1, c2 = clicked[both, one], clicked[both, other]
            r, s = float((c1 * n2 / total).sum()), float((c2 * n1 / total).sum())
            if r <= 0 or s <= 0:
                continue
            variance = float(((c1 + c2) * n1 * n2 / total**2).sum()) / (r * s)
            row = np.zeros(cells.places)
            row[one], row[other] = 1.0, -1.0
            rows.append(row)
            values.append(np.log(r / s))
            weights.append(1.0 / np.sqrt(variance))
    scale = np.array(weights)
    matrix = np.array(rows).reshape(-1, cells.places)[:, 1:] * scale[:, None]
    if np.linalg.matrix_rank(matrix) < cells.places - 1:
        raise Inconclusive(_APART)
    logs = np.linalg.lstsq(matrix, np.array(values) * scale, rcond=None)[0]
    return np.concatenate([[1.0], np.exp(logs)])


_APART = (
    "some positions never showed a product that the others showed too, so their bias cannot be told from"
    " what they showed. Swap neighbours in a share of answers, or ask for fewer positions"
)


def by_maximum_likelihood(cells: Cells, *, rounds: int = 300, tolerance: float = 1e-5) -> Floats:
    """Examination by EM for the position-based model; float64 [places], the first one 1.

    Source: Wang et al. 2018, "Position Bias Estimation for Unbiased Learning to Rank in Personal Search",
    section 4.1, with an attraction for each pair in place of a regression. Raises: Inconclusive where a
    position has no clicked pair in common with the others.
    """
    # Likelihood is nearly flat along trades of bias for attraction, and EM stands still there: it starts
    # where the swaps already say how large the bias is.
    examined = np.clip(by_interventions(cells), FLOOR, None)
    examined = np.clip(examined / examined.max(), FLOOR, 1 - FLOOR)
    looks = np.bincount(cells.pair, cells.shown * examined[cells.position], cells.pairs)
    clicks = np.bincount(cells.pair, cells.clicked, cells.pairs)
    attracts = np.clip(clicks / np.maximum(looks, FLOOR), FLOOR, 1 - FLOOR)
    of_position = np.maximum(np.bincount(cells.position, cells.shown, cells.places), FLOOR)
    of_pair = np.maximum(np.bincount(cells.pair, cells.shown, cells.pairs), FLOOR)
    missed = cells.shown - cells.clicked
    for _ in range(rounds):
        e, a = examined[cells.position], attracts[cells.pair]
        not_clicked = np.maximum(1 - e * a, FLOOR)
        seen = np.bincount(cells.position, cells.clicked + missed * e * (1 - a) / not_clicked, cells.places)
        liked = np.bincount(cells.pair, cells.clicked + missed * a * (1 - e) / not_clicked, cells.pairs)
        before, examined = examined, np.clip(seen / of_position, FLOOR, 1 - FLOOR)
        attracts = np.clip(liked / of_pair, FLOOR, 1 - FLOOR)
        # Only the products are told apart by clicks: what is looked at most is taken to be always looked at.
        scale = examined.max()
        examined, attracts = examined / scale, np.clip(attracts * scale, FLOOR, 1 - FLOOR)
        if np.abs(examined - before).max() < tolerance:
            break
    return np.asarray(examined / examined[0])


METHODS: dict[str, Callable[[Cells], Floats]] = {
    "em": by_maximum_likelihood,
    "interventions": by_interventions,
}


def estimate(shown: Impressions, *, method: str = "em", rounds: int = 100, seed: int = 0) -> Propensities:
    """Examination with intervals: percentiles over `rounds` resamples of whole answers.

    Raises: Inconclusive where nothing was clicked, or positions cannot be joined, here or in many resamples.
    """
    if not shown.clicked.any():
        raise Inconclusive("nothing was clicked")
    fit = METHODS[method]
    value = fit(count(shown))
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(rounds):
        chosen = rng.multinomial(shown.answers, np.full(shown.answers, 1.0 / shown.answers)).astype(float)
        try:
            drawn.append(fit(count(shown, chosen)))
        except Inconclusive:
            continue
    if len(drawn) < max(rounds * 0.9, 2):
        raise Inconclusive(f"only {len(drawn)} of {rounds} resamples join all positions; gather more clicks")
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    return Propensities(value, low, high, method, len(drawn))
