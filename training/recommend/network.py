"""A sequence model of shoppers: what was taken so far, to a vector that meets the next item's.

The Transformer of `training.models.networks`, with a causal mask over places counted from a sequence's
beginning. An item's vector is the sum of up to three parts: one of its own, which interactions teach; the
mean of its attributes' vectors; and a projection of its text's vector. An item without interactions has no
part of its own, and is found by what is known of it. Source: Kang & McAuley 2018, arXiv:1808.09781 (SASRec);
softmax over all items instead of sampled negatives as in Klenitskiy & Vasilev 2023, arXiv:2309.07602.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from training.models.networks import Layer, Shape

_HIDDEN = -1e4


@dataclass(frozen=True)
class ItemSides:
    """What is known of items before anyone took them.

    attributes: float32 [items, kinds], rows that sum to 1 or are empty; None: no attributes. texts: float32
    [items, H], rows of length 1 or 0; None: no texts.
    """

    attributes: sparse.csr_matrix | None = None
    texts: NDArray[np.float32] | None = None


class SequenceModel(nn.Module):
    """See the module. seen: bool [items], the items with interactions; others have no part of their own.

    shape.vocabulary is the number of items, shape.positions the longest history that is read.
    """

    seen: Tensor
    later: Tensor
    attribute_row: Tensor
    attribute_kind: Tensor
    attribute_share: Tensor
    texts: Tensor

    def __init__(self, shape: Shape, sides: ItemSides, seen: NDArray[np.bool_]) -> None:
        super().__init__()
        self.shape = shape
        self.own = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layers = nn.ModuleList(Layer(shape, at) for at in range(shape.layers))
        self.dropout = nn.Dropout(0.0)
        self.register_buffer("seen", torch.from_numpy(seen))
        later = torch.triu(torch.full((shape.positions, shape.positions), _HIDDEN), diagonal=1)
        self.register_buffer("later", later, persistent=False)
        for table in (self.own, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        for layer in self.layers:
            for part in layer.modules():
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=0.02)
                    nn.init.zeros_(part.bias)
        self.kinds: nn.Embedding | None = None
        self.project: nn.Linear | None = None
        if sides.attributes is not None:
            matrix = sides.attributes.tocsr()
            self.register_buffer("attribute_row", torch.from_numpy(matrix.indptr.astype(np.int64)))
            self.register_buffer("attribute_kind", torch.from_numpy(matrix.indices.astype(np.int64)))
            self.register_buffer("attribute_share", torch.from_numpy(matrix.data.astype(np.float32)))
            self.kinds = nn.Embedding(matrix.shape[1], shape.width)
            nn.init.normal_(self.kinds.weight, std=0.02)
        if sides.texts is not None:
            self.register_buffer("texts", torch.from_numpy(sides.texts))
            self.project = nn.Linear(sides.texts.shape[1], shape.width, bias=False)
            nn.init.normal_(self.project.weight, std=0.02)

    def items(self, own_share: Tensor | None = None) -> Tensor:
        """Vectors of all items, float32 [items, H].

        own_share: float32 [items], the factor of each item's own part; None: 1. In training some items lose
        it, so that what is known of an item learns to stand alone.
        """
        kept = self.seen.to(self.own.weight.dtype) if own_share is None else self.seen * own_share
        vectors = self.own.weight * kept[:, None]
        if self.kinds is not None:
            vectors = vectors + F.embedding_bag(
                self.attribute_kind,
                self.kinds.weight,
                self.attribute_row,
                mode="sum",
                per_sample_weights=self.attribute_share,
                include_last_offset=True,
            )
        if self.project is not None:
            vectors = vectors + self.project(self.texts)
        return vectors

    def states(self, items: Tensor, history: Tensor) -> Tensor:
        """items: float32 [items, H]; history: int64 [B, T], items from the oldest on, -1 behind the last.

        Returns: float32 [B, T, H]; the state at a place has seen the places up to it.
        """
        # What lies behind the last item is later than every place that is read: the causal mask hides it.
        return self.read(items[history.clamp(min=0)])

    def read(self, vectors: Tensor) -> Tensor:
        """vectors: float32 [B, T, H], of a history's items from the oldest on. Returns: float32 [B, T, H]."""
        length = vectors.shape[1]
        scaled = vectors * math.sqrt(self.shape.width)
        states = self.dropout(self.norm(scaled + self.positions.weight[:length]))
        bias = self.later[:length, :length][None, None]
        for layer in self.layers:
            states = layer(states, bias)
        found: Tensor = states
        return found
