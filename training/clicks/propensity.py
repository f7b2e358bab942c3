"""Position bias: the probability that a position is looked at, from clicks, relative to the first one.

Both estimates assume the position-based model (`training.clicks.position`). They need products that were
seen at different positions for the same query; without them bias and attraction cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.clicks.impressions import Floats, Impressions, Inconclusive, Ints
from training.clicks.position import Cells, fit_position


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


def count(shown: Impressions, weights: Floats | None = None, pairs: tuple[Ints, int] | None = None) -> Cells:
    """Counts impressions; weights: how often each answer counts, float64 [answers], by default once. pairs:
    `shown.pairs()`, for whoever counts the same impressions again and again.
    """
    pair, many = pairs or shown.pairs()
    places = shown.places
    cell = pair * places + shown.position - 1
    weight = None if weights is None else weights[shown.answer]
    counted = np.bincount(cell, weight, many * places)
    clicks = np.bincount(cell, shown.clicked if weight is None else weight * shown.clicked, many * places)
    kept = np.flatnonzero(counted > 0)
    return Cells(
        kept // places, kept % places, counted[kept].astype(float), clicks[kept].astype(float), many, places
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

    As `training.clicks.position.fit_position`, without a prior. Raises: Inconclusive where a position has no
    clicked pair in common with the others.
    """
    # Likelihood is nearly flat along trades of bias for attraction, and EM stands still there: it starts
    # where the swaps already say how large the bias is.
    model = fit_position(cells, by_interventions(cells), prior_looks=0.0, rounds=rounds, tolerance=tolerance)
    return np.asarray(model.examined / model.examined[0])


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
    fit, pairs = METHODS[method], shown.pairs()
    value = fit(count(shown, pairs=pairs))
    low, high, drawn = bootstrapped(
        lambda weights: fit(count(shown, weights, pairs)), shown.answers, rounds=rounds, seed=seed
    )
    return Propensities(value, low, high, method, drawn)


def bootstrapped(
    fit: Callable[[Floats], Floats], answers: int, *, rounds: int, seed: int
) -> tuple[Floats, Floats, int]:
    """Percentiles of 95 % over resamples of whole answers, and how many of them gave an estimate.

    fit: from how often each answer counts, float64 [answers]. Raises: Inconclusive where one in ten or more
    of the resamples gives no estimate.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(rounds):
        chosen = rng.multinomial(answers, np.full(answers, 1.0 / answers)).astype(float)
        try:
            drawn.append(fit(chosen))
        except Inconclusive:
            continue
    if len(drawn) < max(rounds * 0.9, 2):
        raise Inconclusive(f"only {len(drawn)} of {rounds} resamples join all positions; gather more clicks")
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    return low, high, len(drawn)
