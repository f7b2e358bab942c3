"""The sequence model by DP-SGD: each shopper's gradient is clipped, and their sum gets noise.

Items have no vectors of their own here, only what is known of them: attributes, texts and how popular they
are by the private counts. Thousands of vectors that a few shoppers each would have to teach cannot be told
from the noise on them. Clipping, noise and the optimiser's step are opacus'; gradients a shopper are computed
by torch.func, since all places of a sequence share the items' vectors. Source: Abadi et al. 2016,
arXiv:1607.00133.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from training.loop import learning_share
from training.recommend.behaviour import Items
from training.recommend.network import ItemSides, SequenceModel
from training.recommend.private.noise import Noise
from training.recommend.recipe import PrivacyRecipe, SequenceRecipe
from training.recommend.sequence import new_model, padded

_BUCKETS = 12
_NUMBERS_MAX = 1 << 25
"""Numbers of all shoppers' gradients that are held at a time."""


def with_popularity(sides: ItemSides, popularity: NDArray[np.float32]) -> ItemSides:
    """The same with the powers of 2 of the items' popularity as further attributes.

    popularity: float32 [items], from `noisy_popularity`.
    """
    level = np.clip(np.log2(np.maximum(popularity, 0.5)) + 1.0, 0, _BUCKETS - 1).astype(np.int64)
    ones = np.ones(len(level), dtype=np.float32)
    levels = sparse.csr_matrix((ones, (np.arange(len(level)), level)), shape=(len(level), _BUCKETS))
    both = levels if sides.attributes is None else sparse.hstack([sides.attributes, levels])
    return replace(sides, attributes=both.tocsr())


def new_private_model(recipe: SequenceRecipe, sides: ItemSides, items: int, *, seed: int) -> SequenceModel:
    """A model whose items have no part of their own. sides: from `with_popularity`."""
    model = new_model(recipe, sides, np.zeros(items, dtype=np.bool_), seed=seed)
    model.own.weight.requires_grad_(False)
    return model.eval()


def train_private_sequence(
    recipe: SequenceRecipe,
    privacy: PrivacyRecipe,
    model: SequenceModel,
    shoppers: Sequence[Items],
    *,
    count: int,
    noise: Noise,
    multiplier: float,
    tick: Callable[[int], object] = lambda _: None,
) -> None:
    """Train a model in place.

    shoppers: one sequence each. count: how many shoppers there are, those without a sequence included: each
    is in a step with the chance batch / count (`sample_rate`). multiplier: standard deviation of the noise,
    in units of privacy.clip. tick: told of steps done. Raises: FloatingPointError where the model is no
    longer finite.
    """
    from opacus.optimizers import DPOptimizer

    trained = [one for one in model.parameters() if one.requires_grad]
    inner = torch.optim.AdamW(trained, lr=privacy.learning_rate, weight_decay=recipe.weight_decay)
    optimiser = DPOptimizer(
        inner,
        noise_multiplier=multiplier,
        max_grad_norm=privacy.clip,
        expected_batch_size=privacy.batch,
        generator=torch.Generator().manual_seed(noise.seed("sequence noise")),
    )
    gradients = Gradients(model, recipe)
    rate = sample_rate(privacy, count)
    for step in range(privacy.steps):
        drawn = np.flatnonzero(noise.uniform(f"sequence {step}", count) < rate)
        rows = [shoppers[at] for at in drawn.tolist() if at < len(shoppers) and len(shoppers[at]) > 1]
        others = gradients.draw(np.random.default_rng(noise.seed(f"sequence others {step}")))
        for group in inner.param_groups:
            group["lr"] = privacy.learning_rate * learning_share((step + 0.5) / privacy.steps, recipe.warm_up)
        parts = gradients.parts(rows)
        for at, part in enumerate(parts):
            gradients.of(part, others)
            optimiser.signal_skip_step(do_skip=at + 1 < len(parts))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        tick(1)
    if not all(bool(torch.isfinite(one).all()) for one in trained):
        raise FloatingPointError(
            "sequence: the private model is no longer finite: lower privacy.learning_rate"
        )


def sample_rate(privacy: PrivacyRecipe, count: int) -> float:
    """Chance with which a shopper is in a step."""
    return min(1.0, privacy.batch / count)


class _Reader(nn.Module):
    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, vectors: Tensor) -> Tensor:
        return self.model.read(vectors[None])[0]


class Gradients:
    """Gradients of a model, one for each shopper, in `grad_sample` of its parameters, where opacus looks."""

    def __init__(self, model: SequenceModel, recipe: SequenceRecipe) -> None:
        self._model, self._recipe = model, recipe
        self._reader = _Reader(model)
        # The same numbers as the parameters, outside of autograd: an update changes both.
        self._inner = {
            name: one.detach()
            for name, one in self._reader.named_parameters()
            if one.requires_grad and not name.startswith(("model.kinds.", "model.project."))
        }
        self._parameters = dict(self._reader.named_parameters())
        self._each = vmap(grad(self._loss, argnums=(0, 1)), in_dims=(None, None, 0, 0, None))
        self._attributes: sparse.csr_matrix | None = None
        if model.kinds is not None:
            self._attributes = sparse.csr_matrix(
                (
                    model.attribute_share.numpy(),
                    model.attribute_kind.numpy(),
                    model.attribute_row.numpy(),
                ),
                shape=(len(model.seen), model.kinds.num_embeddings),
            )

    def draw(self, chooser: np.random.Generator) -> Items:
        """Items that stand for all in the softmax of a step."""
        items = len(self._model.seen)
        if 0 < self._recipe.negatives < items:
            return np.sort(chooser.permutation(items)[: self._recipe.negatives])
        return np.arange(items)

    def parts(self, rows: Sequence[Items]) -> list[list[Items]]:
        """Sequences of about one length, as many as memory allows; at least one part, be it empty."""
        if not rows:
            return [[]]
        trained = sum(one.numel() for one in self._model.parameters() if one.requires_grad)
        others = self._recipe.negatives or len(self._model.seen)
        size = max(1, _NUMBERS_MAX // (2 * trained + others * self._model.shape.width))
        ranked = sorted(rows, key=len)
        return [ranked[at : at + size] for at in range(0, len(ranked), size)]

    def of(self, rows: Sequence[Items], others: Items) -> None:
        """Compute them. rows: sequences of at least two items; others: from `draw`."""
        if not rows:
            for one in self._model.parameters():
                if one.requires_grad:
                    _give(one, torch.zeros((0, *one.shape)))
            return
        longest = self._recipe.history_max
        cut = [one[-longest - 1 :] for one in rows]
        used, places = np.unique(np.concatenate([others, *cut]), return_inverse=True)
        at = np.cumsum([len(others), *(len(one) for one in cut)])
        own = [places[start:end] for start, end in itertools.pairwise(at.tolist())]
        history = padded([one[:-1] for one in own], longest)
        following = padded([one[1:] for one in own], longest)
        with torch.no_grad():
            vectors = self._model.items()[torch.from_numpy(used)]
        inner, items = self._each(
            self._inner, vectors, history, following, torch.from_numpy(places[: len(others)])
        )
        for name, found in inner.items():
            _give(self._parameters[name], found)
        if self._model.kinds is not None and self._attributes is not None:
            flat = items.permute(1, 0, 2).reshape(len(used), -1).numpy()
            kinds = torch.from_numpy(np.asarray(self._attributes[used].T @ flat))
            _give(self._model.kinds.weight, kinds.view(-1, len(rows), items.shape[2]).permute(1, 0, 2))
        if self._model.project is not None:
            texts = self._model.texts[torch.from_numpy(used)]
            _give(self._model.project.weight, torch.einsum("brh,re->bhe", items, texts))

    def _loss(
        self, inner: dict[str, Tensor], vectors: Tensor, history: Tensor, following: Tensor, others: Tensor
    ) -> Tensor:
        """Of one shopper: the mean over the places of a sequence, nats.

        vectors: [n, H]; history, following: int64 [T], -1 behind the last; others: int64 [m], among the n.
        """
        states = functional_call(self._reader, inner, (vectors[history.clamp(min=0)],))
        asked, wanted = following >= 0, following.clamp(min=0)
        every = len(self._model.seen)
        scores = states @ vectors[others].T + math.log(every / len(others))
        scores = scores.masked_fill(others[None] == wanted[:, None], -1e4)
        own = (states * vectors[wanted]).sum(-1, keepdim=True)
        missed = torch.logsumexp(torch.cat([own, scores], dim=1), dim=1) - own[:, 0]
        return torch.where(asked, missed, 0.0).sum() / asked.sum().clamp(min=1)


def _give(parameter: Any, gradient: Tensor) -> None:
    parameter.grad_sample = gradient.detach().contiguous()
