"""Losses against a teacher's scores of the candidates of one query."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from torch import Tensor


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
