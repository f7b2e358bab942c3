"""Weights and activations rounded as int8 kernels round them, in float32: for looking ahead and for training.

Weights are symmetric with a scale a row (output channel), activations 8 bits with a scale a tensor or a
token. The range of a weight row is where it is cut off; the exporter covers whatever range a row has, so
cutting the weights before the export is all there is to choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.models.networks import CrossEncoder, Encoder
from training.models.pruning import Batch

RANGES = ("max", "percentile", "mse")
ACTIVATIONS = ("tensor", "token", "none")
# Below half of a row's largest weight, cutting costs more than finer steps gain.
_CUTS = tuple(1.0 - 0.02 * step for step in range(26))


def weight_levels(bits: int) -> int:
    """Steps on each side of 0. Raises: ValueError where the exporter has no such width."""
    if bits not in (7, 8):
        raise ValueError(f"weights have 7 or 8 bits, not {bits}")
    return 64 if bits == 7 else 127


def round_weights(weight: Tensor, levels: int) -> Tensor:
    """Each row on its own grid of 2 * levels + 1 steps. weight: float32 [out, in]."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / levels
    return torch.round(weight / scale) * scale


def round_activations(values: Tensor, kind: str) -> Tensor:
    """8 bits: "tensor" from lowest to highest with one scale, "token" symmetric along the last axis."""
    if kind == "none":
        return values
    if kind == "token":
        scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127.0
        return torch.round(values / scale) * scale
    if kind != "tensor":
        raise ValueError(f"activations are rounded by {', '.join(ACTIVATIONS)}, not {kind!r}")
    low, high = values.amin().clamp(max=0.0), values.amax().clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=1e-12)
    zero = torch.round(-low / scale)
    return (torch.clamp(torch.round(values / scale) + zero, 0.0, 255.0) - zero) * scale


def rounded_linears(model: Encoder | CrossEncoder) -> dict[str, nn.Linear]:
    """The layers that the exporter turns into int8, by name: those of the stack, and the token projection."""
    found = {
        f"stack.{name}": part for name, part in model.stack.named_modules() if isinstance(part, nn.Linear)
    }
    if isinstance(model, Encoder):
        found["project"] = model.project
    return found


@contextmanager
def rounded(model: Encoder | CrossEncoder, *, levels: int, activations: str) -> Iterator[None]:
    """Run and train the model as int8 will have it; afterwards the weights are those that were trained.

    Gradients pass through the rounding as if it were not there (straight-through estimator, Bengio et al.
    2013, arXiv:1308.3432; for whole networks Jacob et al. 2018, arXiv:1712.05877).
    """
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations are rounded by {', '.join(ACTIVATIONS)}, not {activations!r}")
    linears = rounded_linears(model)
    handles = []
    for linear in linears.values():
        parametrize.register_parametrization(linear, "weight", _Rounded(levels))
        if activations != "none":
            handles.append(linear.register_forward_pre_hook(_rounds_inputs(activations)))
    # The word table is stored in int8 too, a scale a row, and stays as it is while training.
    model.stack.freeze_words()
    try:
        yield
    finally:
        model.stack.words_int8 = model.stack.words_scale = None
        for handle in handles:
            handle.remove()
        for linear in linears.values():
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)


@torch.inference_mode()
def input_moments(model: Encoder | CrossEncoder, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Mean square of each input of the layers that become int8, over all tokens: name to float32 [in]."""
    linears = rounded_linears(model)
    totals = {name: torch.zeros(linear.in_features) for name, linear in linears.items()}
    counts = dict.fromkeys(linears, 0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)
            totals[name] += rows.pow(2).sum(0)
            counts[name] += len(rows)

        return add

    handles = [linear.register_forward_pre_hook(watch(name)) for name, linear in linears.items()]
    try:
        for batch in batches:
            model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / max(1, counts[name]) for name, total in totals.items()}


@torch.no_grad()
def cut_weights(
    model: Encoder | CrossEncoder,
    kind: str,
    *,
    levels: int,
    percentile: float,
    moments: Mapping[str, Tensor],
) -> None:
    """Cut the weights off, in place, where the range of this kind ends.

    kind: "max": nowhere. "percentile": at this percentile (0 to 100) of a row's sizes. "mse": where the
    squared error of the row's sums is least, each input weighted by its mean square (Choukroun et al. 2019,
    arXiv:1902.06822, with calibration data). moments: from `input_moments`.
    Raises: ValueError for an unknown kind.
    """
    if kind not in RANGES:
        raise ValueError(f"a range is one of {', '.join(RANGES)}, not {kind!r}")
    if kind == "max":
        return
    for name, linear in rounded_linears(model).items():
        weight = linear.weight.data
        if kind == "percentile":
            limit = torch.quantile(weight.abs(), percentile / 100.0, dim=1, keepdim=True)
        else:
            largest = weight.abs().amax(dim=1, keepdim=True)
            errors = torch.stack([_row_errors(weight, largest * cut, levels, moments[name]) for cut in _CUTS])
            limit = largest * torch.tensor(_CUTS)[errors.argmin(dim=0)][:, None]
        # A row of zeros has no range; a row must keep one.
        limit = limit.clamp(min=1e-12)
        linear.weight.data = torch.minimum(torch.maximum(weight, -limit), limit)


def _row_errors(weight: Tensor, limit: Tensor, levels: int, moments: Tensor) -> Tensor:
    scale = limit.clamp(min=1e-12) / levels
    found = torch.round(weight / scale).clamp(-levels, levels) * scale
    return ((found - weight).pow(2) * moments).sum(1)


class _Rounded(nn.Module):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (round_weights(weight, self.levels) - weight).detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def _rounds_inputs(kind: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def apply(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] + (round_activations(inputs[0], kind) - inputs[0]).detach(),)

    return apply
