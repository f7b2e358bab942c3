"""Each ranking loss is the formula of its source, written a second time in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.losses import RANKING_LOSSES, distil_listwise, listwise_softmax, margin_mse, weighted_loss

Array = NDArray[np.float64]


def pairwise(scores: Array, targets: Array) -> float:
    total = weights = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if targets[i] > targets[j]:
                weights += targets[i] - targets[j]
                total += (targets[i] - targets[j]) * math.log1p(math.exp(scores[j] - scores[i]))
    return total / weights if weights else 0.0


def listwise(scores: Array, targets: Array) -> float:
    shares = np.exp(scores) / np.exp(scores).sum()
    return float(-(targets / targets.sum() * np.log(shares)).sum()) if targets.sum() else 0.0


def graded(scores: Array, targets: Array) -> float:
    said = 1 / (1 + np.exp(-scores))
    return float(-(targets * np.log(said) + (1 - targets) * np.log(1 - said)).mean())


REFERENCES: dict[str, Callable[[Array, Array], float]] = {
    "pairwise": pairwise,
    "listwise": listwise,
    "graded": graded,
}


@pytest.mark.parametrize("name", list(RANKING_LOSSES))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_loss_is_its_formula(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, targets = random.normal(size=7), random.choice([0.0, 0.25, 1.0], size=7)
    found = RANKING_LOSSES[name](torch.tensor(scores), torch.tensor(targets))
    assert found.item() == pytest.approx(REFERENCES[name](scores, targets), rel=1e-6)


def test_every_loss_has_a_reference() -> None:
    assert set(REFERENCES) == set(RANKING_LOSSES)


def test_a_weighted_sum_is_the_sum_of_its_parts() -> None:
    random = np.random.default_rng(4)
    scores, targets = random.normal(size=5), np.array([1.0, 0.0, 0.25, 0.0, 1.0])
    weights = {"pairwise": 1.0, "listwise": 0.5, "graded": 0.3}
    wanted = sum(weight * REFERENCES[name](scores, targets) for name, weight in weights.items())
    found = weighted_loss(torch.tensor(scores), torch.tensor(targets), weights)
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_a_weight_of_0_leaves_a_loss_out() -> None:
    scores, targets = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])
    alone = weighted_loss(scores, targets, {"listwise": 2.0})
    torch.testing.assert_close(alone, weighted_loss(scores, targets, {"listwise": 2.0, "graded": 0.0}))
    torch.testing.assert_close(alone, 2.0 * listwise_softmax(scores, targets))


@pytest.mark.parametrize(
    ("weights", "message"), [({"pairwize": 1.0}, "pairwize"), ({"pairwise": 0.0}, "no loss has"), ({}, "no")]
)
def test_weights_that_say_nothing_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_loss(torch.zeros(2), torch.zeros(2), weights)


def test_a_list_without_a_relevant_product_teaches_nothing() -> None:
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = listwise_softmax(scores, torch.zeros(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert scores.grad is not None and scores.grad.abs().sum().item() == 0.0


def test_the_margin_loss_is_half_the_mean_over_all_pairs_of_differences() -> None:
    random = np.random.default_rng(5)
    student, teacher = random.normal(size=6), random.normal(size=6)
    gaps = (student[:, None] - student[None, :]) - (teacher[:, None] - teacher[None, :])
    found = margin_mse(torch.tensor(student), torch.tensor(teacher))
    assert found.item() == pytest.approx((gaps**2).mean() / 2, rel=1e-6)


def test_listwise_distillation_is_the_divergence_of_the_softened_shares() -> None:
    random = np.random.default_rng(6)
    student, teacher = random.normal(size=6), random.normal(size=6)

    def soften(values: Array) -> Array:
        return np.asarray(np.exp(values / 2.0) / np.exp(values / 2.0).sum())

    wanted = 4.0 * (soften(teacher) * np.log(soften(teacher) / soften(student))).sum()
    found = distil_listwise(torch.tensor(student), torch.tensor(teacher), temperature=2.0)
    assert found.item() == pytest.approx(wanted, rel=1e-6)
