"""The average effect of a treatment (a badge, a lower price, the first place) on an outcome, such as buying.

Augmented inverse propensity weighting with cross-fitting: right where either the model of who is treated or
that of the outcome is right, and all that drives both is among the covariates. That last part no data can
prove; the refutations below find some of its failures, not all. Sources: Robins, Rotnitzky & Zhao 1994;
Chernozhukov et al. 2018, "Double/debiased machine learning", arXiv:1608.00060.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z = 1.959963984540054
OVERLAP = 0.01
OUTSIDE_MOST = 0.05
ROWS_LEAST = 200


class EffectUnknown(ValueError):
    """The data cannot tell the effect; the message says why."""


@dataclass(frozen=True)
class Effect:
    """Outcome with the treatment less that without, averaged over all rows, with bounds of 95 %."""

    value: float
    low: float
    high: float


def average_effect(
    covariates: Floats, treated: Floats, outcome: Floats, *, folds: int = 5, seed: int = 0
) -> Effect:
    """covariates: float64 [rows, columns]; treated, outcome: 0 or 1, float64 [rows].

    Raises: EffectUnknown where there are few rows, one of the two groups is nearly empty, or treated and
    untreated rows are too unlike each other (overlap).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(outcome) < ROWS_LEAST or not np.isfinite(covariates).all():
        raise EffectUnknown(f"{ROWS_LEAST} rows or more are needed, and numbers alone")
    groups = treated * 2 + outcome
    if np.bincount(groups.astype(int), minlength=4).min() < folds:
        raise EffectUnknown("with and without the treatment, both outcomes must occur in each fold")
    chance, with_it, without = (np.zeros(len(outcome)) for _ in range(3))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(covariates, groups)
    for fit, held in splits:

        def model(rows: NDArray[np.int64], target: Floats, held: NDArray[np.int64] = held) -> Floats:
            found = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
            found.fit(covariates[rows], target[rows])
            return np.asarray(found.predict_proba(covariates[held])[:, 1], dtype=np.float64)

        chance[held] = model(fit, treated)
        with_it[held] = model(fit[treated[fit] == 1], outcome)
        without[held] = model(fit[treated[fit] == 0], outcome)
    outside = float(((chance < OVERLAP) | (chance > 1 - OVERLAP)).mean())
    if outside > OUTSIDE_MOST:
        raise EffectUnknown(
            f"{outside:.0%} of the rows are nearly always or never treated: nothing to compare"
        )
    chance = np.clip(chance, OVERLAP, 1 - OVERLAP)
    terms = (
        with_it
        - without
        + treated * (outcome - with_it) / chance
        - (1 - treated) * (outcome - without) / (1 - chance)
    )
    value, half = float(terms.mean()), Z * float(terms.std(ddof=1)) / len(terms) ** 0.5
    return Effect(value, value - half, value + half)


def refutations(covariates: Floats, treated: Floats, outcome: Floats, *, seed: int = 0) -> dict[str, Effect]:
    """The effect where it should be 0 ("placebo": the treatment shuffled) and where it should stay as it is
    ("random_cause": a covariate of noise more; "subset": a random 80 % of the rows). Raises: EffectUnknown.
    """
    rng = np.random.default_rng(seed)
    some = rng.random(len(outcome)) < 0.8
    noise = np.column_stack([covariates, rng.normal(size=len(outcome))])
    return {
        "placebo": average_effect(covariates, rng.permutation(treated), outcome, seed=seed),
        "random_cause": average_effect(noise, treated, outcome, seed=seed),
        "subset": average_effect(covariates[some], treated[some], outcome[some], seed=seed),
    }
