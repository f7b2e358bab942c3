"""Contrastive losses agree with plain numpy, and a masked word is where it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.losses.contrastive import (
    ShapeMismatch,
    hide_words,
    masked_words,
    paired_info_nce,
    soft_cross_entropy,
)


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def test_soft_cross_entropy_is_the_mean_over_queries_of_the_normalised_targets_surprise() -> None:
    random = np.random.default_rng(1)
    scores, targets = random.normal(size=(4, 7)), random.random((4, 7))
    targets[2] = 0.0
    expected = np.mean([-(targets[q] / targets[q].sum() * log_softmax(scores[q])).sum() for q in (0, 1, 3)])
    found = soft_cross_entropy(torch.tensor(scores), torch.tensor(targets))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_candidate_that_is_not_allowed_might_as_well_not_be_there() -> None:
    random = np.random.default_rng(2)
    scores, targets = random.normal(size=(3, 5)), random.random((3, 5))
    allowed = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)
    expected = np.mean(
        [
            -(
                targets[q][allowed[q]] / targets[q][allowed[q]].sum() * log_softmax(scores[q][allowed[q]])
            ).sum()
            for q in range(3)
        ]
    )
    leaf = torch.tensor(scores, requires_grad=True)
    found = soft_cross_entropy(leaf, torch.tensor(targets), torch.tensor(allowed))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    found.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert (leaf.grad[torch.tensor(~allowed)] == 0).all()
    assert (leaf.grad[torch.tensor(allowed)] != 0).all()


def test_with_one_positive_a_query_soft_cross_entropy_is_info_nce() -> None:
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    torch.testing.assert_close(soft_cross_entropy(scores, torch.eye(6)), expected)


def test_queries_without_any_target_cost_nothing() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    loss = soft_cross_entropy(scores, torch.zeros(2, 3))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert scores.grad is not None and not scores.grad.any()


def test_paired_info_nce_is_the_surprise_in_both_directions() -> None:
    random = np.random.default_rng(4)
    first, second = random.normal(size=(5, 8)), random.normal(size=(5, 8))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    similar = first @ second.T / 0.1
    there = -np.mean([log_softmax(similar[at])[at] for at in range(5)])
    back = -np.mean([log_softmax(similar.T[at])[at] for at in range(5)])
    found = paired_info_nce(torch.tensor(first), torch.tensor(second), temperature=0.1)
    assert found.item() == pytest.approx((there + back) / 2, rel=1e-9)


def test_paired_info_nce_falls_as_partners_meet() -> None:
    first = torch.nn.functional.normalize(
        torch.randn(4, 6, generator=torch.Generator().manual_seed(5)), dim=1
    )
    shuffled = first[[1, 2, 3, 0]]
    assert paired_info_nce(first, first, temperature=0.05) < paired_info_nce(
        first, shuffled, temperature=0.05
    )


def test_the_masked_loss_is_the_surprise_of_the_hidden_words() -> None:
    random = np.random.default_rng(6)
    states, words, bias = random.normal(size=(3, 4)), random.normal(size=(9, 4)), random.normal(size=9)
    answers = [2, 8, 0]
    expected = -np.mean([log_softmax(states[m] @ words.T + bias)[answers[m]] for m in range(3)])
    found = masked_words(torch.tensor(states), torch.tensor(words), torch.tensor(bias), torch.tensor(answers))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    nothing = masked_words(
        torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(9), torch.zeros(0, dtype=torch.long)
    )
    assert nothing.item() == 0.0


def test_words_are_hidden_in_the_stated_shares_and_only_where_they_may_be() -> None:
    rows = torch.randint(10, 100, (200, 50), generator=torch.Generator().manual_seed(7))
    shown = torch.ones_like(rows, dtype=torch.bool)
    shown[:, 0] = False
    hidden, asked = hide_words(
        rows, shown, share=0.2, mask=4, vocabulary=100, chooser=torch.Generator().manual_seed(8)
    )
    assert not asked[:, 0].any()
    assert torch.equal(hidden[~asked], rows[~asked])
    assert asked[:, 1:].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (hidden[asked] == 4).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (hidden[asked] == rows[asked]).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_shapes_that_do_not_belong_together_are_named() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(2, 3\), \(2, 4\)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeMismatch, match=r"\(3, 3\)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ShapeMismatch, match=r"\(2, 3\) and \(3, 3\)"):
        paired_info_nce(torch.zeros(2, 3), torch.zeros(3, 3), temperature=1.0)
