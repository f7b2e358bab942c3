"""Losses that need no label: a text against its own partner among others, and hidden words."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from torch import Tensor


class ShapeMismatch(ValueError):
    """Two arrays that belong together differ in shape; the message names both."""


def soft_cross_entropy(scores: Tensor, targets: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Cross-entropy between graded targets and the softmax of the scores, over the candidates of each query.

    With one positive a query this is InfoNCE (van den Oord et al. 2018, arXiv:1807.03748); with grades it is
    ListNet's top-one loss (Cao et al. 2007) over normalised gains.

    scores: float32 [Q, P], already divided by the temperature. targets: float32 [Q, P], 0 or above; each row
    is normalised to sum 1, and a row that sums to 0 says nothing and is left out of the mean. allowed: bool
    [Q, P], False for candidates that may be unlabelled positives: they are neither pulled nor pushed; None:
    all are allowed.
    Returns: scalar, in nats, mean over the queries that have a target; 0 where none has.
    Raises: ShapeMismatch.
    """
    if scores.shape != targets.shape or (allowed is not None and allowed.shape != scores.shape):
        shapes = ", ".join(str(tuple(one.shape)) for one in (scores, targets, allowed) if one is not None)
        raise ShapeMismatch(f"scores, targets and what is allowed must have one shape, not {shapes}")
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -1e4)
        targets = targets * allowed.to(targets.dtype)
    mass = targets.sum(1)
    losses = -(targets * torch.log_softmax(scores, dim=1)).sum(1) / mass.clamp(min=1e-9)
    told = (mass > 0).to(scores.dtype)
    return (losses * told).sum() / told.sum().clamp(min=1.0)


def paired_info_nce(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE in both directions between rows that belong together; every other row is a negative.

    first, second: float32 [B, H], unit vectors; row b of one belongs to row b of the other. temperature:
    above 0, of the cosine. Returns: scalar, in nats, mean of both directions.
    Raises: ShapeMismatch.
    Source: Gao et al. 2021 (SimCSE), arXiv:2104.08821, where the two are one text under two dropout masks.
    """
    if first.shape != second.shape:
        raise ShapeMismatch(f"pairs need one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    similar = first @ second.T / temperature
    own = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own))


def masked_words(states: Tensor, words: Tensor, bias: Tensor, answers: Tensor) -> Tensor:
    """Masked-language loss with a tied head: a hidden word's state must point at its row of the word table.

    states: float32 [M, H], of hidden positions alone. words: [V, H], the word table. bias: [V]. answers:
    int64 [M], the hidden words. Returns: scalar, in nats, mean over hidden words; 0 where none is hidden.
    Source: Devlin et al. 2019, arXiv:1810.04805; tied as in Press & Wolf 2017, arXiv:1608.05859.
    """
    if not len(answers):
        return states.sum() * 0.0
    return F.cross_entropy(states @ words.T + bias, answers)


def hide_words(
    rows: Tensor, shown: Tensor, *, share: float, mask: int, vocabulary: int, chooser: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose positions to be guessed: 80 % become [MASK], 10 % another word, 10 % stay as they are.

    rows: int64 [B, T] word pieces. shown: bool [B, T], positions that may be chosen (no padding, no special
    tokens). share: of them that are chosen, 0 to 1. mask: id of [MASK]. vocabulary: number of words.
    Returns: the rows with words hidden, and bool [B, T] of the positions to guess.
    """
    luck = torch.rand(rows.shape, generator=chooser)
    asked = shown & (luck < share)
    fate = torch.rand(rows.shape, generator=chooser)
    others = torch.randint(vocabulary, rows.shape, generator=chooser)
    hidden = torch.where(asked & (fate < 0.8), torch.full_like(rows, mask), rows)
    return torch.where(asked & (fate >= 0.9), others, hidden), asked
