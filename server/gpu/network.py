"""A cross-encoder's graph run by torch, on a GPU or, to be tested, on the processor.

Products with weights and attention run in 16 bits (bf16), everything else in float32, as torch's autocast
would have it: sums and norms need the digits, and so do the cosines of the tail, which are told apart by
their third. Shapes are those of the inputs; values that only shapes depend on stay on the host, so that one
run of a shape can be recorded as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows)
from torch import Tensor, nn

from server.gpu.graph import INPUTS, OUTPUT, Graph, Step, UnreadableModel

# A head that maps to a few numbers costs nothing, and rounds what all the rest was for.
_NARROW = 16

_TYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float32,
    16: torch.float32,
}
"""ONNX's numbers of element types; all floating point is float32 between the steps."""

Moved = dict[tuple[int, int], Tensor]
"""Copies on the device of host values that steps of one shape read, by step and input."""


class Network(nn.Module):
    """The graph with its weights on one device. dtype: of products with weights and of attention."""

    def __init__(self, graph: Graph, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        unknown = sorted({step.kind for step in graph.steps} - _RUN.keys())
        if unknown:
            raise UnreadableModel(f"no kernel for the steps {', '.join(unknown)}")
        self.device = device
        self.dtype = dtype
        self._steps = graph.steps
        weights = {step.inputs[1] for step in graph.steps if step.kind == "Linear"}
        self._values: dict[str, Tensor] = {}
        for name, array in graph.constants.items():
            # A copy, for the arrays read are views of the file's bytes.
            value = torch.from_numpy(array.copy())
            if name in weights and value.shape[1] >= _NARROW:
                value = value.t().contiguous().to(device, dtype)
            elif name in weights:
                value = value.t().contiguous().to(device)
            elif value.ndim > 0 and value.dtype != torch.int64:
                value = value.to(device)
            self._values[name] = value
        # Steps that run in `dtype` read their bias in it.
        for step in graph.steps:
            if step.kind == "Linear" and len(step.inputs) == 3:
                weight, bias = self._values[step.inputs[1]], step.inputs[2]
                self._values[f"{bias}/{weight.dtype}"] = self._values[bias].to(device, weight.dtype)
        self._last_reader = {name: at for at, step in enumerate(graph.steps) for name in step.inputs}

    @torch.inference_mode()
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, moved: Moved | None = None
    ) -> Tensor:
        """int64 [B, T] each, on the device. Returns: float32 [B], raw logits, higher is better.

        A pair padded behind its end (mask and type 0 there) scores as it would alone, but for rounding.
        moved: kept between two runs of the same shape, the second one copies nothing from the host.
        """
        moved = {} if moved is None else moved
        values: dict[str, Tensor] = dict(self._values)
        values.update(zip(INPUTS, (input_ids, attention_mask, token_type_ids), strict=True))
        for at, step in enumerate(self._steps):
            inputs = [values[name] if name else None for name in step.inputs]
            found = _RUN[step.kind](_Context(self, step, at, moved), inputs)
            values[step.outputs[0]] = found
            for name in step.inputs:
                if self._last_reader.get(name) == at and name not in self._values:
                    values.pop(name, None)
        return values[OUTPUT].reshape(-1).to(torch.float32)

    def bias(self, step: Step, weight: Tensor) -> Tensor | None:
        """Bias of a Linear, in the type of its weights."""
        return self._values[f"{step.inputs[2]}/{weight.dtype}"] if len(step.inputs) == 3 else None


class _Context:
    """What a step knows besides its inputs."""

    def __init__(self, network: Network, step: Step, at: int, moved: Moved) -> None:
        self.network = network
        self.step = step
        self._at = at
        self._moved = moved

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.step.attributes.get(name, default)

    def together(self, inputs: Sequence[Any]) -> list[Any]:
        """Inputs on the device if one of them is there; those without dimensions may stay where they are."""
        device = next(
            (value.device for value in inputs if value is not None and value.device.type != "cpu"), None
        )
        if device is None:
            return list(inputs)
        return [
            value
            if value is None or value.device == device or value.ndim == 0
            else self.move(place, value, device)
            for place, value in enumerate(inputs)
        ]

    def move(self, place: int, value: Tensor, device: torch.device) -> Tensor:
        """An input on the device, copied there once for each shape."""
        key = (self._at, place)
        if key not in self._moved:
            self._moved[key] = value.to(device)
        return self._moved[key]


Run = Callable[[_Context, list[Any]], Tensor]


def _host(value: Tensor) -> list[int]:
    """A value that shapes are made of, as numbers."""
    if value.device.type != "cpu":
        raise UnreadableModel("a shape depends on the texts")
    return [int(one) for one in value.reshape(-1).tolist()]


def _linear(context: _Context, inputs: list[Any]) -> Tensor:
    value, weight = inputs[0], inputs[1]
    return F.linear(value.to(weight.dtype), weight, context.network.bias(context.step, weight))


def _attention(context: _Context, inputs: list[Any]) -> Tensor:
    query, key_turned, bias, value = inputs
    return F.scaled_dot_product_attention(
        query, key_turned.transpose(2, 3), value, attn_mask=bias.to(query.dtype), scale=context.get("scale")
    )


def _matmul(context: _Context, inputs: list[Any]) -> Tensor:
    one, other = context.together(inputs)
    if one.dtype != other.dtype:
        one, other = one.to(torch.float32), other.to(torch.float32)
    return torch.matmul(one, other)


def _layer_norm(context: _Context, inputs: list[Any]) -> Tensor:
    value, *rest = context.together(inputs)
    axis = int(context.get("axis", -1)) % value.ndim
    shape = tuple(value.shape[axis:])
    bias = rest[1] if len(rest) > 1 else None
    return F.layer_norm(value.to(torch.float32), shape, rest[0], bias, float(context.get("epsilon", 1e-5)))


def _gather(context: _Context, inputs: list[Any]) -> Tensor:
    axis = int(context.get("axis", 0))
    table, places = inputs
    if places.ndim == 0 and places.device.type == "cpu":
        return torch.select(table, axis, int(places))
    table, places = context.together(inputs)
    axis %= table.ndim
    found = torch.index_select(table, axis, places.reshape(-1))
    return found.reshape(*table.shape[:axis], *places.shape, *table.shape[axis + 1 :])


def _slice(context: _Context, inputs: list[Any]) -> Tensor:
    value = inputs[0]
    starts, ends = _host(inputs[1]), _host(inputs[2])
    axes = _host(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _host(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    cuts = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise UnreadableModel("a Slice that runs backwards")
        cuts[axis] = slice(start, end, step)
    cut: Tensor = value[tuple(cuts)]
    return cut


def _axes(context: _Context, inputs: list[Any]) -> list[int]:
    """Axes as the second input (newer models) or as an attribute (older ones); empty: none are named."""
    if len(inputs) > 1 and inputs[1] is not None:
        return _host(inputs[1])
    return [int(axis) for axis in context.get("axes", ())]


def _reduced(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Run:
    def run(context: _Context, inputs: list[Any]) -> Tensor:
        value = inputs[0]
        axes = _axes(context, inputs) or list(range(value.ndim))
        if value.dtype == torch.bfloat16:
            value = value.to(torch.float32)
        return reduce(value, axes, bool(context.get("keepdims", 1)))

    return run


def _unsqueeze(context: _Context, inputs: list[Any]) -> Tensor:
    value = inputs[0]
    axes = _axes(context, inputs)
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes):
        value = value.unsqueeze(axis)
    widened: Tensor = value
    return widened


def _squeeze(context: _Context, inputs: list[Any]) -> Tensor:
    axes = _axes(context, inputs)
    return torch.squeeze(inputs[0], axes) if axes else torch.squeeze(inputs[0])


def _reshape(context: _Context, inputs: list[Any]) -> Tensor:
    value, shape = inputs[0], _host(inputs[1])
    if not context.get("allowzero", 0):
        shape = [value.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    reshaped: Tensor = value.reshape(shape)
    return reshaped


def _clip(context: _Context, inputs: list[Any]) -> Tensor:
    bounds = [None if one is None else float(one) for one in (*inputs[1:], None, None)[:2]]
    return torch.clamp(inputs[0], min=bounds[0], max=bounds[1])


def _filled(context: _Context, inputs: list[Any]) -> Tensor:
    value = context.get("value")
    number = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return number.reshape(-1)[0].expand(_host(inputs[0])).clone()


def _cumsum(context: _Context, inputs: list[Any]) -> Tensor:
    if context.get("exclusive", 0) or context.get("reverse", 0):
        raise UnreadableModel("a CumSum that is exclusive or reverse")
    return torch.cumsum(inputs[0], _host(inputs[1])[0])


def _cast(context: _Context, inputs: list[Any]) -> Tensor:
    wanted = _TYPES.get(int(context.get("to")))
    if wanted is None:
        raise UnreadableModel(f"a Cast to type {context.get('to')}")
    value: Tensor = inputs[0].to(wanted)
    return value


def _both(compute: Callable[[Any, Any], Any]) -> Run:
    def run(context: _Context, inputs: list[Any]) -> Tensor:
        result: Tensor = compute(*context.together(inputs))
        return result

    return run


def _one(compute: Callable[[Any], Any]) -> Run:
    def run(context: _Context, inputs: list[Any]) -> Tensor:
        result: Tensor = compute(inputs[0])
        return result

    return run


def _divide(one: Tensor, other: Tensor) -> Tensor:
    whole = not one.is_floating_point() and not other.is_floating_point()
    return torch.div(one, other, rounding_mode="trunc") if whole else torch.div(one, other)


_RUN: dict[str, Run] = {
    "Linear": _linear,
    "Attention": _attention,
    "Gelu": _one(F.gelu),
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "Gather": _gather,
    "Slice": _slice,
    "Shape": lambda context, inputs: torch.tensor(list(inputs[0].shape), dtype=torch.int64),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": lambda context, inputs: inputs[0].permute(list(context.get("perm"))),
    "Concat": lambda context, inputs: torch.cat(context.together(inputs), dim=int(context.get("axis"))),
    "ConstantOfShape": _filled,
    "CumSum": _cumsum,
    "Cast": _cast,
    "Clip": _clip,
    "Where": lambda context, inputs: torch.where(*context.together(inputs)),
    "Identity": _one(lambda value: value),
    "Add": _both(torch.add),
    "Sub": _both(torch.sub),
    "Mul": _both(torch.mul),
    "Div": _both(_divide),
    "Greater": _both(torch.gt),
    "Sqrt": _one(torch.sqrt),
    "Erf": _one(torch.erf),
    "Abs": _one(torch.abs),
    "Softmax": lambda context, inputs: torch.softmax(
        inputs[0].to(torch.float32), dim=int(context.get("axis", -1))
    ),
    "ReduceSum": _reduced(lambda value, axes, keep: torch.sum(value, axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda value, axes, keep: torch.amax(value, axes, keepdim=keep)),
}
