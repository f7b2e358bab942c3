"""Dense and late-interaction scores straight from an encoder, to mine and measure before any bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.batches import Specials, by_length, text_batch
from training.models.networks import Encoder, unit

_BATCH = 64


@dataclass(frozen=True)
class Vectors:
    """Vectors of some texts. dense: float32 [n, H]; tokens: one float16 [tokens, D] a text, no specials.

    All are unit vectors. keys: of the texts, in the order of the rows.
    """

    keys: list[str]
    at: Mapping[str, int]
    dense: NDArray[np.float32]
    tokens: list[Tensor]

    def dense_scores(
        self, query: NDArray[np.float32], keys: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Cosine of a query's dense vector [H] with the texts named (None: all). Returns: [keys]."""
        rows = self.dense if keys is None else self.dense[[self.at[key] for key in keys]]
        found: NDArray[np.float32] = rows @ query
        return found

    def late_scores(self, query: Tensor, keys: Sequence[str]) -> NDArray[np.float32]:
        """Mean over the query's tokens [S, D] of the best cosine among a text's tokens. Returns: [keys].

        A text without tokens scores -1. Source: Khattab & Zaharia 2020, arXiv:2004.12832.
        """
        rows = [self.tokens[self.at[key]] for key in keys]
        if not rows or not len(query):
            return np.full(len(keys), -1.0, dtype=np.float32)
        every = torch.cat(rows).float() @ query.float().T
        owner = torch.repeat_interleave(
            torch.arange(len(rows)), torch.tensor([len(one) for one in rows], dtype=torch.long)
        )
        best = torch.full((len(rows), len(query)), -1.0).scatter_reduce(
            0, owner[:, None].expand(-1, len(query)), every, "amax", include_self=True
        )
        found: NDArray[np.float32] = best.mean(1).numpy()
        return found


@torch.inference_mode()
def encode(
    encoder: Encoder,
    rows: Mapping[str, Sequence[int]],
    specials: Specials,
    *,
    projected: bool,
    tokens: bool = True,
    half: bool = False,
    note: str = "vectors",
) -> Vectors:
    """Encode texts, in batches of near-equal length.

    rows: key to word pieces. projected: whether token vectors go through the encoder's projection (D = its
    dimension) or stay in the width of the stack. tokens: False keeps no token vectors. half: compute in bf16,
    twice as fast where the processor has it; cosines then carry an error of about 0.003.
    """
    device = encoder.project.weight.device
    was_training = encoder.training
    encoder.eval()
    keys = list(rows)
    pieces = [list(rows[key]) for key in keys]
    width = encoder.stack.shape.width
    dense = np.zeros((len(keys), width), dtype=np.float32)
    found: list[Tensor] = [torch.empty(0, width)] * len(keys) if tokens else []
    batches = list(by_length(pieces, _BATCH))
    for batch in tqdm(batches, desc=note, mininterval=5, disable=len(batches) < 8):
        ids, mask = (one.to(device) for one in text_batch([pieces[at] for at in batch], specials))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            states = encoder.stack(ids, mask)
        states = states.float()
        share = mask.to(torch.float32)[..., None]
        dense[batch] = unit((states * share).sum(1) / share.sum(1)).cpu().numpy()
        if tokens:
            small = unit(encoder.project(states) if projected else states).half().cpu()
            for place, at in enumerate(batch):
                found[at] = small[place, 1 : 1 + len(pieces[at])].clone()
    encoder.train(was_training)
    return Vectors(keys, {key: row for row, key in enumerate(keys)}, dense, found)
