"""Losses over the candidates of one query: `ranking` against judgements, `distillation` against a teacher."""

from training.losses.distillation import distil_listwise, margin_mse
from training.losses.ranking import (
    RANKING_LOSSES,
    graded_bce,
    listwise_softmax,
    pairwise_logistic,
    weighted_loss,
)

__all__ = [
    "RANKING_LOSSES",
    "distil_listwise",
    "graded_bce",
    "listwise_softmax",
    "margin_mse",
    "pairwise_logistic",
    "weighted_loss",
]
