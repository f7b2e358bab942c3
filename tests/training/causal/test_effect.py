"""An effect whose truth is known is found where the plain difference is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from training.causal.effect import EffectUnknown, Floats, average_effect, refutations


def shop(rows: int = 8_000, effect: float = 0.8, seed: int = 21) -> tuple[Floats, Floats, Floats, float]:
    """Good products get the badge more often and sell better anyway. Returns also the true average effect."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(rows, 3))

    def chance(logit: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-logit)))

    treated = (rng.random(rows) < chance(quality[:, 0])).astype(float)
    base = -1.5 + quality[:, 0] + 0.5 * quality[:, 1]
    outcome = (rng.random(rows) < chance(base + effect * treated)).astype(float)
    return quality, treated, outcome, float((chance(base + effect) - chance(base)).mean())


def test_the_truth_lies_within_the_bounds_and_the_plain_difference_outside() -> None:
    covariates, treated, outcome, truth = shop()
    found = average_effect(covariates, treated, outcome)
    assert found.low <= truth <= found.high
    plain = outcome[treated == 1].mean() - outcome[treated == 0].mean()
    assert plain > found.high


def test_a_placebo_does_nothing_and_the_effect_stays_else() -> None:
    covariates, treated, outcome, truth = shop()
    found = refutations(covariates, treated, outcome)
    assert found["placebo"].low <= 0 <= found["placebo"].high
    assert found["random_cause"].low <= truth <= found["random_cause"].high
    assert found["subset"].low <= truth <= found["subset"].high


def test_groups_that_cannot_be_compared_are_not() -> None:
    covariates, treated, outcome, _ = shop()
    apart = covariates + 20 * treated[:, None]
    with pytest.raises(EffectUnknown, match="nothing to compare"):
        average_effect(apart, treated, outcome)
    with pytest.raises(EffectUnknown, match="rows or more"):
        average_effect(covariates[:50], treated[:50], outcome[:50])
    with pytest.raises(EffectUnknown, match="both outcomes"):
        average_effect(covariates, np.zeros_like(treated), outcome)
