"""All parts together spend what was asked and no more, by opacus' accountants and by a formula of its own."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy import stats

from training.recipe import RecipeError
from training.recommend.private.accounting import ORDERS, Budget, Part, allot

DELTA = 1e-5
PARTS = [Part("popularity", 0.3), Part("sequence", 0.6, 0.1, 20), Part("weights", 0.1, steps=10)]


def _accounted(kind: type[RDPAccountant] | type[PRVAccountant], budget: Budget) -> float:
    accountant: Any = kind()
    for one in budget.spent:
        for _ in range(one.part.steps):
            accountant.step(noise_multiplier=one.noise, sample_rate=one.part.sample_rate)
    more = {"alphas": ORDERS} if kind is RDPAccountant else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=budget.delta, **more))


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_parts_compose_to_what_was_asked_and_no_more(epsilon: float) -> None:
    budget = allot(PARTS, epsilon, DELTA)
    assert 0.97 * epsilon < budget.epsilon <= epsilon
    assert _accounted(RDPAccountant, budget) == pytest.approx(budget.epsilon, rel=1e-6)


def test_the_other_accountant_of_opacus_finds_no_more_either() -> None:
    budget = allot([Part("a", 0.5), Part("b", 0.5, 0.2, 3)], 2.0, DELTA)
    # Numerical composition is tighter; it may be off by its own tolerance.
    assert _accounted(PRVAccountant, budget) <= 2.0 + 0.01


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 4.0, 50.0])
def test_unsampled_parts_keep_delta_by_the_exact_formula_of_the_gaussian_mechanism(epsilon: float) -> None:
    budget = allot([Part("a", 0.5), Part("b", 0.2), Part("c", 0.3, steps=10)], epsilon, DELTA)
    # Gaussian mechanisms compose to one whose signal to noise is the root of the sum of squares.
    signal = math.sqrt(sum(one.part.steps / one.noise**2 for one in budget.spent))
    # Balle & Wang 2018, theorem 8.
    delta = stats.norm.cdf(signal / 2 - epsilon / signal) - math.exp(epsilon) * stats.norm.cdf(
        -signal / 2 - epsilon / signal
    )
    assert delta <= DELTA


def test_a_part_with_a_larger_share_has_less_noise_and_its_own_epsilon_is_smaller_than_the_whole() -> None:
    budget = allot([Part("large", 0.8), Part("small", 0.2)], 2.0, DELTA)
    assert budget.noise("large") < budget.noise("small")
    assert all(one.epsilon < budget.epsilon for one in budget.spent)
    # They add up to more than the whole, which is what composing well is worth.
    assert sum(one.epsilon for one in budget.spent) > budget.epsilon


def test_a_smaller_epsilon_means_more_noise_everywhere() -> None:
    small, large = allot(PARTS, 1.0, DELTA), allot(PARTS, 4.0, DELTA)
    for one in PARTS:
        assert small.noise(one.name) > 1.5 * large.noise(one.name)


def test_a_share_for_which_no_noise_is_enough_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"privacy\.shares\.b leaves .* of epsilon"):
        allot([Part("a", 1.0), Part("b", 1e-4)], 0.5, DELTA)


def test_without_opacus_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(RecipeError, match=r"pip install 'muster\[private\]'"):
        allot(PARTS, 1.0, DELTA)
