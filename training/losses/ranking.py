"""Losses against judgements: how the candidates of one query should be ordered, and how good each one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from torch import Tensor


def pairwise_logistic(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean of log(1 + exp(s_j - s_i)) over pairs with t_i > t_j, each weighted by t_i - t_j.

    scores, targets: float32 [n]. Returns: scalar; 0 where no two targets differ.
    Source: RankNet, Burges et al. 2005, with graded weights.
    """
    gap = targets[:, None] - targets[None, :]
    weight = gap.clamp(min=0.0)
    losses = F.softplus(scores[None, :] - scores[:, None])
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


def listwise_softmax(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy between the targets as shares of their sum and the softmax of the scores, in nats.

    scores, targets: float32 [n], targets at least 0. Returns: scalar; 0 where no target is above 0.
    Source: ListNet's top-one probabilities, Cao et al. 2007, with the targets themselves as the wanted shares
    (Bruch et al. 2019, "An analysis of the softmax cross entropy loss for learning-to-rank"), which bounds
    1 - nDCG for two grades.
    """
    wanted = targets / targets.sum().clamp(min=1e-6)
    return -(wanted * torch.log_softmax(scores, dim=-1)).sum()


def graded_bce(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score) against a graded target in 0..1, mean over candidates, in nats."""
    return F.binary_cross_entropy_with_logits(scores, targets)


RANKING_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairwise": pairwise_logistic,
    "listwise": listwise_softmax,
    "graded": graded_bce,
}


def weighted_loss(scores: Tensor, targets: Tensor, weights: Mapping[str, float]) -> Tensor:
    """Sum of the named losses, each times its weight.

    scores, targets: float32 [n]; weights: name in RANKING_LOSSES to weight; 0 leaves a loss out.
    Returns: scalar. Raises: ValueError for an unknown name, or where no weight is above 0.
    """
    unknown = [name for name in weights if name not in RANKING_LOSSES]
    if unknown:
        raise ValueError(f"no loss is called {unknown[0]!r}; known: {', '.join(RANKING_LOSSES)}")
    parts = [weight * RANKING_LOSSES[name](scores, targets) for name, weight in weights.items() if weight]
    if not parts:
        raise ValueError("no loss has a weight above 0")
    return torch.stack(parts).sum()
