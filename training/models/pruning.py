"""Structured pruning of a stack: what matters least, and the smaller stack without it.

A model is seen through its output vectors alone, so nothing here needs a label. How much a head or a neuron
matters is the second-order Taylor expansion of the squared change of the outputs when it is taken away
(Michel et al. 2019, arXiv:1905.10650, gates on heads; Molchanov et al. 2019, arXiv:1906.10771, squared
gradients): the squared derivative by a gate of 1 around it, summed over all outputs by random signs. What
stays is refitted by least squares to say what the whole said (He et al. 2017, arXiv:1707.06168).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from training.models.networks import CrossEncoder, Encoder, Layer, Stack

Model = TypeVar("Model", bound=Encoder | CrossEncoder)

Batch = tuple[Tensor, ...]
"""Inputs of a model's forward pass, in its order; the second is the attention mask."""


def encoder_seen(dense: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Dense vector [B, H] and token vectors [B, T, D] of each text as one vector, float32 [B, H + T * D].

    Scaled so that a squared distance is 2 (1 - cosine) of the dense vectors plus the mean over tokens of the
    same. mask: [B, T], 1 for tokens, 0 for padding.
    """
    real = mask.to(torch.float32)
    weights = torch.sqrt(real / real.sum(1, keepdim=True))
    return torch.cat([dense, (tokens * weights[..., None]).flatten(1)], dim=1)


def cross_seen(scores: Tensor) -> Tensor:
    """Scores [B] of one query's products as one vector without its mean, float32 [1, B]: only order matters.

    Scaled so that a squared distance is a mean over products.
    """
    centred: Tensor = (scores - scores.mean())[None] / len(scores) ** 0.5
    return centred


def seen(model: Encoder | CrossEncoder, batch: Batch) -> Tensor:
    """A model's outputs as the rows of one matrix."""
    if isinstance(model, Encoder):
        dense, tokens = model(*batch)
        return encoder_seen(dense, tokens, batch[1])
    return cross_seen(model(*batch))


@torch.inference_mode()
def distortion(model: Encoder | CrossEncoder, wanted: Sequence[Tensor], batches: Sequence[Batch]) -> float:
    """Mean squared distance between a model's outputs and the wanted ones, one tensor a batch."""
    gaps = [(seen(model, batch) - one).pow(2).sum(1) for batch, one in zip(batches, wanted, strict=True)]
    return float(torch.cat(gaps).mean())


@torch.inference_mode()
def outputs(model: Encoder | CrossEncoder, batches: Sequence[Batch]) -> list[Tensor]:
    """A model's outputs, one tensor a batch."""
    return [seen(model, batch) for batch in batches]


@dataclass(frozen=True)
class Importance:
    """What each part of one layer is worth: squared change of the outputs without it, mean over texts.

    heads: float32 [heads]; inner: float32 [inner width].
    """

    heads: Tensor
    inner: Tensor


def importance(
    model: Encoder | CrossEncoder, batches: Sequence[Batch], chooser: torch.Generator
) -> list[Importance]:
    """Importance of the heads and neurons of every layer, over the batches."""
    layers = stack_layers(model.stack)
    heads = [torch.zeros(layer.heads) for layer in layers]
    inner = [torch.zeros(layer.widen.out_features) for layer in layers]
    rows = 0
    for batch in batches:
        # One gate a text, where a text has outputs of its own; else one gate for all.
        count = len(batch[0]) if isinstance(model, Encoder) else 1
        gates = [
            (
                torch.ones(count, len(head), requires_grad=True),
                torch.ones(count, len(neurons), requires_grad=True),
            )
            for head, neurons in zip(heads, inner, strict=True)
        ]
        with _gated(layers, gates), torch.enable_grad():
            found = seen(model, batch)
            signs = torch.randint(0, 2, found.shape, generator=chooser).to(found.dtype) * 2.0 - 1.0
            flat = [gate for pair in gates for gate in pair]
            gradients = torch.autograd.grad((found * signs).sum(), flat)
        for at in range(len(layers)):
            heads[at] += gradients[2 * at].pow(2).sum(0)
            inner[at] += gradients[2 * at + 1].pow(2).sum(0)
        rows += len(found)
    return [
        Importance(head / max(1, rows), neurons / max(1, rows))
        for head, neurons in zip(heads, inner, strict=True)
    ]


def most_important(worth: Sequence[Tensor], share: float, multiple: int) -> list[Tensor]:
    """Which parts to keep so that at least this share of all of them stays, and one block in every layer.

    worth: of each part, one tensor a layer. share: above 0, at most 1. multiple: parts stay in blocks of this
    many (a processor works on so many at once), the last block of a layer may be smaller.
    Returns: rising indices, one int64 tensor a layer.
    Raises: ValueError where the share is out of range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"a share to keep must be above 0 and at most 1, not {share}")
    orders = [one.argsort(descending=True) for one in worth]
    blocks = [
        (float(one[order[start : start + multiple]].mean()), at, start)
        for at, (one, order) in enumerate(zip(worth, orders, strict=True))
        for start in range(0, len(order), multiple)
    ]
    # The first block of a layer holds its best parts: it always stays.
    blocks.sort(key=lambda block: (block[2] > 0, -block[0], block[1], block[2]))
    wanted = share * sum(len(one) for one in worth)
    kept = [0] * len(worth)
    for number, (_, at, start) in enumerate(blocks):
        if number >= len(worth) and sum(kept) >= wanted - 1e-9:
            break
        kept[at] = min(start + multiple, len(worth[at]))
    return [order[:count].sort().values for order, count in zip(orders, kept, strict=True)]


def without_layers(model: Model, kept: Sequence[int]) -> Model:
    """A copy with these layers alone, in this order."""
    made = copy.deepcopy(model)
    old = made.stack.shape
    made.stack.layers = nn.ModuleList(made.stack.layers[at] for at in kept)
    made.stack.shape = replace(
        old,
        layers=len(kept),
        heads_by_layer=tuple(old.heads_at(at) for at in kept) if old.heads_by_layer else (),
        inner_by_layer=tuple(old.inner_at(at) for at in kept) if old.inner_by_layer else (),
        apart=sum(at < old.apart for at in kept),
    )
    return made


def spread_layers(layers: int, kept: int) -> list[int]:
    """Layers at even distances, the last one among them."""
    return [round((at + 1) * layers / kept) - 1 for at in range(kept)]


def least_harmful_layers(model: Encoder | CrossEncoder, kept: int, batches: Sequence[Batch]) -> list[int]:
    """Layers that stay when, one after the other, the one whose loss changes the outputs least is dropped."""
    wanted = outputs(model, batches)
    left = list(range(model.stack.shape.layers))
    while len(left) > kept:
        costs = []
        for at in left:
            others = [one for one in left if one != at]
            costs.append((distortion(_rearranged(model, others), wanted, batches), at))
        left.remove(min(costs)[1])
    return left


def shrink(
    model: Model,
    heads: Sequence[Tensor],
    inner: Sequence[Tensor],
    batches: Sequence[Batch],
    *,
    ridge: float = 1e-3,
) -> Model:
    """A copy with these heads and neurons alone, refitted to the whole model's inner sums on the batches.

    heads, inner: kept indices, one tensor a layer. ridge: of the refit, as a share of the mean square.
    """
    made = copy.deepcopy(model)
    layers = stack_layers(made.stack)
    moments = inner_moments(model, batches)
    width = made.stack.shape.head_width
    for layer, left, neurons, (mixed, narrowed) in zip(layers, heads, inner, moments, strict=True):
        columns = (left[:, None] * width + torch.arange(width)[None, :]).flatten()
        if len(left) < layer.heads:
            for projection in (layer.query, layer.key, layer.value):
                _keep_rows(projection, columns)
            _refit(layer.mix, columns, mixed, ridge)
            layer.heads = len(left)
        if len(neurons) < layer.widen.out_features:
            _keep_rows(layer.widen, neurons)
            _refit(layer.narrow, neurons, narrowed, ridge)
    made.stack.shape = replace(
        made.stack.shape,
        heads_by_layer=tuple(layer.heads for layer in layers),
        inner_by_layer=tuple(layer.widen.out_features for layer in layers),
    )
    return made


@torch.inference_mode()
def inner_moments(model: Encoder | CrossEncoder, batches: Sequence[Batch]) -> list[tuple[Tensor, Tensor]]:
    """Second moments of what enters `mix` and `narrow` of each layer, with a column of ones at the end.

    Returns: float64 [n + 1, n + 1] each, summed over all tokens that are no padding.
    """
    layers = stack_layers(model.stack)
    found = [
        tuple(torch.zeros(part.in_features + 1, part.in_features + 1, dtype=torch.float64) for part in pair)
        for pair in ((layer.mix, layer.narrow) for layer in layers)
    ]
    mask = torch.ones(1)

    def watch(total: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0][mask.bool()]
            rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
            total.add_((rows.T @ rows).double())

        return add

    handles = [
        part.register_forward_pre_hook(watch(total))
        for layer, totals in zip(layers, found, strict=True)
        for part, total in zip((layer.mix, layer.narrow), totals, strict=True)
    ]
    try:
        for batch in batches:
            mask = batch[1]
            model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return [(mixed, narrowed) for mixed, narrowed in found]


def parameters(model: nn.Module) -> int:
    """Number of weights, the word table's among them."""
    return sum(one.numel() for one in model.parameters())


def stack_layers(stack: Stack) -> list[Layer]:
    """The layers, typed."""
    return [layer for layer in stack.layers if isinstance(layer, Layer)]


@contextmanager
def _gated(layers: Sequence[Layer], gates: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    def times(gate: Tensor, width: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def apply(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] * gate.repeat_interleave(width, dim=1)[:, None, :],)

        return apply

    handles = []
    for layer, (head, neurons) in zip(layers, gates, strict=True):
        handles.append(layer.mix.register_forward_pre_hook(times(head, layer.head_width)))
        handles.append(layer.narrow.register_forward_pre_hook(times(neurons, 1)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rearranged(model: Encoder | CrossEncoder, kept: Sequence[int]) -> Encoder | CrossEncoder:
    # Shares every weight with the model: only for looking at, never for training.
    made = copy.copy(model)
    made._modules = dict(model._modules)
    stack = copy.copy(model.stack)
    stack._modules = dict(model.stack._modules)
    stack.layers = nn.ModuleList(model.stack.layers[at] for at in kept)
    made.stack = stack
    return made


def _keep_rows(linear: nn.Linear, rows: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.data[rows].clone())
    linear.bias = nn.Parameter(linear.bias.data[rows].clone())
    linear.out_features = len(rows)


def _refit(linear: nn.Linear, columns: Tensor, moments: Tensor, ridge: float) -> None:
    """Keep these input columns, with the weights and bias that come nearest to the old sums."""
    whole = torch.cat([linear.weight.data, linear.bias.data[:, None]], dim=1).double()
    kept = torch.cat([columns, torch.tensor([linear.in_features])])
    among = moments[kept][:, kept]
    # Pulled towards the old weights, not towards 0: what the texts say nothing about stays as it was.
    pull = ridge * float(among.diagonal().mean()) * torch.eye(len(kept), dtype=torch.float64)
    wanted = whole @ moments[:, kept] + whole[:, kept] @ pull
    found = torch.linalg.solve(among + pull, wanted.T).T.float()
    linear.weight = nn.Parameter(found[:, :-1].clone())
    linear.bias = nn.Parameter(found[:, -1].clone())
    linear.in_features = len(columns)
