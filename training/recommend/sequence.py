"""The sequence model: training, and what it says of every item.

A batch is some sequences; at each of their places the model foretells the next item among all items that
anyone took. Whole sequences are read once and every place of them learns (Kang & McAuley 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from numpy.typing import NDArray
from torch import Tensor

from training.loop import Drawn, LoopSettings, Outcome, ParameterGroup, train
from training.models.networks import Shape
from training.recommend.behaviour import Cases, Items
from training.recommend.measured import ndcg, target_ranks
from training.recommend.mixture import chunks, strip
from training.recommend.network import ItemSides, SequenceModel
from training.recommend.recipe import SequenceRecipe

_HIDDEN = -1e4
_BLOCKS = 8

Step = tuple[Tensor, Tensor, Tensor, Tensor]
"""Histories [B, T], what follows each place [B, T], factors of the items' own parts [items], items to tell
them from [n].
"""


@dataclass(frozen=True)
class FromModel:
    """A sequence model as a source (`training.recommend.mixture`): its softmax over the items that may be
    named.

    model: in evaluation mode. named: bool [items].
    """

    model: SequenceModel
    named: NDArray[np.bool_]
    name: str = "sequence"
    doubt: float = 0.0

    @torch.inference_mode()
    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `Source`."""
        items = self.model.items()
        scores = states_of(self.model, items, histories) @ items.T
        return softmax(np.asarray(scores.float().cpu().numpy()), self.named)


def softmax(scores: NDArray[np.float32], named: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shares of the items that may be named: float32 [histories, items], in place of the scores."""
    scores[:, ~named] = -np.inf
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def padded(histories: Sequence[Items], positions: int) -> Tensor:
    """The latest `positions` items of each, from the oldest on, -1 behind the last: int64 [histories,
    longest].
    """
    cut = [one[-positions:] for one in histories]
    found = np.full((len(cut), max((len(one) for one in cut), default=0)), -1, dtype=np.int64)
    for row, one in enumerate(cut):
        found[row, : len(one)] = one
    return torch.from_numpy(found)


def states_of(model: SequenceModel, items: Tensor, histories: Sequence[Items]) -> Tensor:
    """The state after the last item of each history: float32 [histories, H]. items: `model.items()`."""
    positions = model.shape.positions
    last = torch.tensor([min(len(one), positions) - 1 for one in histories], dtype=torch.long)
    states = model.states(items, padded(histories, positions).to(items.device))
    return states[torch.arange(len(histories)), last]


def sampled_softmax(states: Tensor, items: Tensor, wanted: Tensor, others: Tensor, every: int) -> Tensor:
    """Cross-entropy of the wanted item among all, of which some were drawn evenly to stand for the rest.

    states: [N, H]; items: [items, H]; wanted: int64 [N]; others: int64 [n], drawn out of `every`. Each of
    them counts for every / n. Returns: scalar, nats. Source: Bengio & Senecal 2008, importance sampling of
    the partition function.
    """
    own = (states * items[wanted]).sum(-1, keepdim=True)
    scores = states @ items[others].T + math.log(every / len(others))
    scores = scores.masked_fill(others[None] == wanted[:, None], _HIDDEN)
    return F.cross_entropy(
        torch.cat([own, scores], dim=1), torch.zeros(len(wanted), dtype=torch.long, device=own.device)
    )


def new_model(
    recipe: SequenceRecipe, sides: ItemSides, seen: NDArray[np.bool_], *, seed: int
) -> SequenceModel:
    """A model with random weights."""
    torch.manual_seed(seed)
    shape = Shape(
        recipe.layers, recipe.width, recipe.heads, recipe.inner, len(seen), recipe.history_max, epsilon=1e-8
    )
    return SequenceModel(shape, sides, seen)


def train_sequence(
    recipe: SequenceRecipe,
    model: SequenceModel,
    sequences: Sequence[Items],
    validation: Cases | None,
    *,
    repeats: bool,
    seed: int,
    checkpoint: Path | None = None,
    steps_end: int = 0,
) -> Outcome:
    """Train a model in place, and keep the weights of the best validation.

    sequences: what is learnt from; those of one item teach nothing. validation: None where it is learnt from
    as well, and nothing can be watched. steps_end: of the schedule; 0: what the recipe's epochs come to.
    Raises: as `training.loop.train`.
    """
    long = [one[-recipe.history_max - 1 :] for one in sequences if len(one) > 1]
    count = steps_end or -(-len(long) // recipe.batch) * recipe.epochs
    lengths = torch.tensor([len(one) for one in long])
    named = model.seen.nonzero()[:, 0]
    sides = model.kinds is not None or model.project is not None

    def draw(chooser: torch.Generator) -> Step:
        # Sequences of about the same length make a batch: most are short, and a batch is as wide as its
        # longest. Each is as likely as any other, since the block is drawn after the sequences.
        drawn = torch.randint(len(long), (recipe.batch * _BLOCKS,), generator=chooser)
        ranked = drawn[torch.argsort(lengths[drawn], stable=True)].view(_BLOCKS, recipe.batch)
        block = int(torch.randint(_BLOCKS, (1,), generator=chooser))
        rows = [long[at] for at in ranked[block].tolist()]
        own = torch.ones(len(model.seen))
        if sides and recipe.own_drop:
            own = (torch.rand(len(model.seen), generator=chooser) >= recipe.own_drop).float()
        others = named
        if 0 < recipe.negatives < len(named):
            others = named[torch.randperm(len(named), generator=chooser)[: recipe.negatives]]
        history = padded([one[:-1] for one in rows], recipe.history_max)
        return history, padded([one[1:] for one in rows], recipe.history_max), own, others

    def loss_of(step: Step) -> Tensor:
        history, following, own, others = (one.to(model.own.weight.device) for one in step)
        items = model.items(own)
        states = model.states(items, history)
        asked = following >= 0
        states, wanted = F.dropout(states[asked], recipe.dropout), following[asked]
        return sampled_softmax(states, items, wanted, others, len(named))

    settings = LoopSettings(
        steps=count,
        warm_up=recipe.warm_up,
        weight_decay=recipe.weight_decay,
        dropout=recipe.dropout,
        precision=recipe.precision,
        device=recipe.device,
        minutes_max=recipe.minutes_max,
        evaluate_steps=recipe.evaluate_steps if validation is not None else 0,
        patience=recipe.patience if validation is not None else 0,
        checkpoint_steps=recipe.checkpoint_steps,
    )

    def evaluate() -> dict[tuple[str, str], float]:
        assert validation is not None
        return {("validation", "ndcg10"): float(ndcg(model_ranks(model, validation, repeats=repeats)).mean())}

    watched = validation is not None
    return train(
        model,
        Drawn(count, draw, seed=seed),
        loss_of,
        [ParameterGroup([one for one in model.parameters() if one.requires_grad], recipe.learning_rate)],
        settings,
        name="sequence",
        seed=seed,
        checkpoint=checkpoint,
        about={
            "batch": recipe.batch,
            "own_drop": recipe.own_drop,
            "negatives": recipe.negatives,
            "sequences": len(long),
        },
        evaluate=evaluate if watched else None,
        watch=("validation", "ndcg10") if watched else None,
    )


@torch.inference_mode()
def model_ranks(model: SequenceModel, cases: Cases, *, repeats: bool) -> NDArray[np.int64]:
    """Ranks of the targets among all items by the model alone: int64 [cases]."""
    items = model.items()
    found = np.empty(len(cases), dtype=np.int64)
    for part in chunks(len(cases)):
        histories = cases.histories[part]
        scores = (states_of(model, items, histories) @ items.T).float().cpu().numpy()
        if not repeats:
            strip(scores, histories, -np.inf)
        found[part] = target_ranks(scores, cases.targets[part])
    return found
