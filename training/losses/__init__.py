"""Losses over the candidates of one query."""

from __future__ import annotations

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


def graded_bce(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score) against a graded target in 0..1, mean over candidates, in nats."""
    return F.binary_cross_entropy_with_logits(scores, targets)


def distil_listwise(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Pull the student's preference among the candidates of one query towards the teacher's.

    student, teacher: float32 [n], raw scores. temperature: unitless, above 0; larger softens both.
    Returns: scalar, in nats, times temperature squared.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    wanted = torch.softmax(teacher / temperature, dim=-1)
    found = torch.log_softmax(student / temperature, dim=-1)
    return F.kl_div(found, wanted, reduction="sum") * temperature**2


def margin_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared gap between all score differences of student and teacher.

    student, teacher: float32 [n]. Returns: scalar.
    Source: Hofstaetter et al. 2020, arXiv:2010.02666, over all pairs.
    """
    gap = (student - student.mean()) - (teacher - teacher.mean())
    return gap.pow(2).mean()
