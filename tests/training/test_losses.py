"""Losses fall when the order gets better, and only then."""

from __future__ import annotations

import torch

from training.encoder import late_scores, principal_components
from training.losses import distil_listwise, graded_bce, margin_mse, pairwise_logistic


def test_the_pairwise_loss_falls_as_the_better_product_rises() -> None:
    targets = torch.tensor([1.0, 0.25, 0.0])
    good, bad = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])
    assert pairwise_logistic(good, targets) < pairwise_logistic(bad, targets)


def test_the_pairwise_loss_of_equal_targets_is_0() -> None:
    assert pairwise_logistic(torch.tensor([3.0, -3.0]), torch.tensor([0.5, 0.5])).item() == 0.0


def test_the_graded_loss_is_least_at_its_target() -> None:
    target = torch.tensor([0.25])
    best = torch.logit(target)
    for shift in (-1.0, 1.0):
        assert graded_bce(best, target) < graded_bce(best + shift, target)


def test_distillation_ignores_a_shift_of_all_scores() -> None:
    student, teacher = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.5])
    for loss in (margin_mse, lambda s, t: distil_listwise(s, t, temperature=2.0)):
        torch.testing.assert_close(loss(student, teacher), loss(student + 5.0, teacher))
        torch.testing.assert_close(loss(teacher - 3.0, teacher), torch.tensor(0.0), atol=1e-6, rtol=0)
        assert loss(student, teacher) > 0


def test_late_interaction_is_the_mean_of_the_best_cosines() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    product = torch.tensor([[[0.6, 0.8], [1.0, 0.0], [9.0, 9.0]]])
    masks = torch.tensor([[True, True, False]])
    torch.testing.assert_close(late_scores(query, masks, product, masks), torch.tensor([[0.9]]))


def test_components_keep_dot_products_that_lie_in_few_directions() -> None:
    torch.manual_seed(1)
    vectors = torch.randn(200, 3) @ torch.randn(3, 12)
    kept = principal_components(vectors, 3)
    torch.testing.assert_close(kept @ kept.T, torch.eye(3), atol=1e-5, rtol=0)
    projected = vectors @ kept.T
    torch.testing.assert_close(projected @ projected.T, vectors @ vectors.T, rtol=1e-3, atol=1e-3)
