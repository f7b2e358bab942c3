"""A bundle's cross-encoder as steps that a GPU library can run: read from ONNX, int8 turned back to numbers.

The exported graph quantises activations on the way (``DynamicQuantizeLinear``, ``MatMulInteger``, scales);
a GPU multiplies in 16 bits instead, so each such group becomes one ``Linear`` with the weights that its int8
rows stand for. Two more groups that libraries have one kernel for are recognised, ``Gelu`` and ``Attention``;
where they are not, the graph's own steps run and give the same numbers, only slower. Reads any graph of the
steps in ``server.gpu.network``, whatever its layers, heads or tail. Needs no GPU and no torch.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "score"
ENCODER_FILE = "encoder/model.onnx"

Array = npt.NDArray[Any]


class UnreadableModel(Exception):
    """The model cannot be run from here; the message says which step is in the way."""


@dataclass(frozen=True)
class Step:
    """One step: ``kind`` is an ONNX operator or one of Linear, Gelu and Attention.

    inputs, outputs: names of values; an empty input is an optional one that is absent.
    Linear: [x, weight [in, out]] or [x, weight, bias [out]]. Gelu: [x], the exact one (erf). Attention:
    [query, transposed key, bias, value], with attribute "scale".
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which they can run, and the constants they read."""

    steps: tuple[Step, ...]
    constants: Mapping[str, Array]

    def kinds(self) -> Counter[str]:
        """How many steps there are of each kind."""
        return Counter(step.kind for step in self.steps)

    def vocabulary(self) -> int:
        """Token ids that the model has words for are below this. Raises: UnreadableModel: it reads none."""
        rows = [
            len(self.constants[step.inputs[0]])
            for step in self.steps
            if step.kind == "Gather" and step.inputs[1] == INPUTS[0] and step.inputs[0] in self.constants
        ]
        if not rows:
            raise UnreadableModel("no table of words is read by token ids")
        return min(rows)


def model_file(bundle: Path, tier: str) -> Path | None:
    """The file of a cross-encoder in a bundle's folder; None: the bundle has none of this tier."""
    for name in ("model.onnx.gz", "model.onnx"):
        if (bundle / tier / name).is_file():
            return bundle / tier / name
    return None


def read_cross(bundle: Path, tier: str) -> Graph:
    """Read a cross-encoder of the bundle in this folder, whose files are as the manifest declares.

    Raises: UnreadableModel.
    """
    path = model_file(bundle, tier)
    if path is None:
        raise UnreadableModel(f"the bundle has no {tier}")
    stored = path.read_bytes()
    return read_graph(
        gzip.decompress(stored) if path.suffix == ".gz" else stored, (bundle / ENCODER_FILE).read_bytes()
    )


def read_graph(model: bytes, encoder: bytes) -> Graph:
    """Read a cross-encoder. Raises: UnreadableModel.

    model: ONNX, inputs INPUTS int64 [B, T], output OUTPUT float32 [B]. encoder: bytes of the encoder's file,
    the only one that tensors may be stored in outside the model.
    """
    read = onnx.load_model_from_string(model)
    names = {value.name for value in read.graph.input} - {one.name for one in read.graph.initializer}
    if names != set(INPUTS) or OUTPUT not in {value.name for value in read.graph.output}:
        raise UnreadableModel(f"it maps {sorted(names)}, not {sorted(INPUTS)}, to {OUTPUT}")
    constants = dict(_constants(read, encoder))
    steps = _with_linear([_step(node) for node in _named(read, constants)], constants)
    steps = _with_bias(steps, constants)
    steps = _with_gelu(steps, constants)
    steps = _with_attention(steps, constants)
    used = {name for step in steps for name in step.inputs}
    return Graph(tuple(steps), {name: value for name, value in constants.items() if name in used})


def _constants(model: ModelProto, encoder: bytes) -> Iterator[tuple[str, Array]]:
    for tensor in model.graph.initializer:
        yield tensor.name, _array(tensor, encoder)
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield node.output[0], _array(node.attribute[0].t, encoder)


def _array(tensor: TensorProto, encoder: bytes) -> Array:
    if tensor.data_location == TensorProto.EXTERNAL:
        place = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(place.get("offset", "0")), int(place.get("length", "0"))
        if place.get("location") != ENCODER_FILE or not 0 <= offset <= offset + length <= len(encoder):
            raise UnreadableModel(f"{tensor.name} is stored outside {ENCODER_FILE}")
        whole = TensorProto()
        whole.CopyFrom(tensor)
        whole.ClearField("external_data")
        whole.ClearField("data_location")
        whole.raw_data = encoder[offset : offset + length]
        tensor = whole
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except ValueError as error:
        raise UnreadableModel(f"{tensor.name}: {error}") from error


def _named(model: ModelProto, constants: dict[str, Array]) -> Iterator[NodeProto]:
    """The nodes that compute; names that stand for a constant are entered among the constants."""
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
            continue
        if node.domain not in ("", "ai.onnx"):
            raise UnreadableModel(f"step {node.domain}.{node.op_type} is not one of the standard")
        yield node


def _step(node: NodeProto) -> Step:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
    return Step(node.op_type, tuple(node.input), tuple(node.output), attributes)


@dataclass(frozen=True)
class _Rounded:
    """A value while it is int8: which part of it a name stands for."""

    of: str
    part: str


@dataclass(frozen=True)
class _Product:
    """The sums of a MatMulInteger, without their scales. weights: [in, out], zero points taken off."""

    of: str
    weights: Array


@dataclass(frozen=True)
class _Scales:
    """The scale of a rounded value times that of weights, a number or one for each output."""

    of: str
    weights: Array


def _with_linear(steps: list[Step], constants: dict[str, Array]) -> list[Step]:
    """Each product with constant weights as a Linear."""
    held: dict[str, _Rounded | _Product | _Scales] = {}
    made: list[Step] = []

    def linear(value: str, weights: Array, output: str, bias: str | None = None) -> None:
        name = f"{output}/weight"
        constants[name] = np.ascontiguousarray(weights, np.float32)
        inputs = (value, name) if bias is None else (value, name, bias)
        made.append(Step("Linear", inputs, (output,)))

    for step in steps:
        parts = [held.get(name) for name in step.inputs]
        if step.kind == "DynamicQuantizeLinear":
            for name, part in zip(step.outputs, ("values", "scale", "zero"), strict=True):
                held[name] = _Rounded(step.inputs[0], part)
        elif step.kind == "MatMulInteger":
            values = parts[0]
            if not isinstance(values, _Rounded) or step.inputs[1] not in constants:
                raise UnreadableModel("a MatMulInteger without a rounded value and constant weights")
            weights = constants[step.inputs[1]].astype(np.float32)
            if len(step.inputs) > 3 and step.inputs[3]:
                weights = weights - constants[step.inputs[3]].astype(np.float32)
            held[step.outputs[0]] = _Product(values.of, weights)
        elif step.kind == "Cast" and isinstance(parts[0], _Product):
            held[step.outputs[0]] = parts[0]
        elif step.kind == "Mul" and any(parts):
            _multiply(step, parts, held, constants, linear)
        elif any(parts):
            raise UnreadableModel(f"step {step.kind} reads a rounded value")
        elif step.kind == "MatMul" and constants.get(step.inputs[1], np.zeros(0)).ndim == 2:
            linear(step.inputs[0], constants[step.inputs[1]], step.outputs[0])
        elif step.kind == "Gemm" and step.inputs[1] in constants and _plain(step):
            weights = constants[step.inputs[1]]
            bias = step.inputs[2] if len(step.inputs) > 2 else None
            turned = weights.T if step.attributes.get("transB") else weights
            linear(step.inputs[0], turned, step.outputs[0], bias)
        else:
            made.append(step)
    return made


def _plain(step: Step) -> bool:
    """Whether a Gemm is just x W + b."""
    given = step.attributes
    return given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0 and not given.get("transA")


def _multiply(
    step: Step,
    parts: list[Any],
    held: dict[str, Any],
    constants: Mapping[str, Array],
    linear: Any,
) -> None:
    """One of the multiplications by which sums of int8 get their scale back."""
    for one, other in ((0, 1), (1, 0)):
        mine, theirs = parts[one], parts[other]
        if isinstance(mine, _Rounded) and mine.part == "scale" and step.inputs[other] in constants:
            held[step.outputs[0]] = _Scales(mine.of, constants[step.inputs[other]].astype(np.float32))
            return
        if isinstance(mine, _Product) and isinstance(theirs, _Scales) and mine.of == theirs.of:
            linear(mine.of, mine.weights * theirs.weights, step.outputs[0])
            return
    raise UnreadableModel("a Mul of rounded values that are not a product and its scales")


class _Uses:
    """Who makes and who reads a value. ``OUTPUT`` is read by the caller."""

    def __init__(self, steps: list[Step]) -> None:
        self._readers = Counter(name for step in steps for name in step.inputs)
        self._readers[OUTPUT] += 1
        self._maker = {step.outputs[0]: step for step in steps if len(step.outputs) == 1}

    def only(self, name: str, kind: str) -> Step | None:
        """The step of this kind that makes a value which nobody but one step reads."""
        step = self._maker.get(name)
        return step if step is not None and step.kind == kind and self._readers[name] == 1 else None

    def operands(self, step: Step, kind: str) -> Iterator[tuple[Step, str]]:
        """Operands of a step with two that a step of this kind made for it alone, each with the other one."""
        one, other = step.inputs
        for mine, theirs in ((one, other), (other, one)):
            maker = self.only(mine, kind)
            if maker is not None:
                yield maker, theirs


def _number(constants: Mapping[str, Array], name: str) -> float | None:
    value = constants.get(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _without(steps: list[Step], gone: set[int], made: Mapping[int, Step]) -> list[Step]:
    """The steps with some replaced, and without those that became part of another. By identity."""
    return [made.get(id(step), step) for step in steps if id(step) not in gone]


def _with_bias(steps: list[Step], constants: Mapping[str, Array]) -> list[Step]:
    """A vector added to a Linear as its bias."""
    uses = _Uses(steps)
    gone: set[int] = set()
    made: dict[int, Step] = {}
    for step in steps:
        if step.kind != "Add":
            continue
        for linear, bias in uses.operands(step, "Linear"):
            value = constants.get(bias)
            width = constants[linear.inputs[1]].shape[1]
            if len(linear.inputs) == 2 and value is not None and value.shape == (width,):
                gone.add(id(linear))
                made[id(step)] = replace(linear, inputs=(*linear.inputs, bias), outputs=step.outputs)
                break
    return _without(steps, gone, made)


def _with_gelu(steps: list[Step], constants: Mapping[str, Array]) -> list[Step]:
    """x / sqrt(2) -> erf -> + 1 -> times x -> times 1/2, in one."""
    uses = _Uses(steps)
    gone: set[int] = set()
    made: dict[int, Step] = {}
    for step in steps:
        if step.kind != "Mul":
            continue
        for product, half in uses.operands(step, "Mul"):
            for plus, value in uses.operands(product, "Add"):
                for erf, one in uses.operands(plus, "Erf"):
                    part = uses.only(erf.inputs[0], "Div")
                    if (
                        part is not None
                        and part.inputs[0] == value
                        and _close(_number(constants, part.inputs[1]), 2.0**0.5)
                        and _close(_number(constants, one), 1.0)
                        and _close(_number(constants, half), 0.5)
                    ):
                        gone |= {id(product), id(plus), id(erf), id(part)}
                        made[id(step)] = Step("Gelu", (value,), step.outputs)
    return _without(steps, gone, made)


def _with_attention(steps: list[Step], constants: Mapping[str, Array]) -> list[Step]:
    """softmax(query key' * scale + bias) value, in one."""
    uses = _Uses(steps)
    gone: set[int] = set()
    made: dict[int, Step] = {}
    for step in steps:
        if step.kind != "MatMul":
            continue
        softmax = uses.only(step.inputs[0], "Softmax")
        if softmax is None or softmax.attributes.get("axis", -1) not in (-1, 3):
            continue
        biased = uses.only(softmax.inputs[0], "Add")
        if biased is None:
            continue
        for scaled, bias in uses.operands(biased, "Mul"):
            for product, scale in uses.operands(scaled, "MatMul"):
                number = _number(constants, scale)
                if number is None:
                    continue
                gone |= {id(softmax), id(biased), id(scaled), id(product)}
                inputs = (*product.inputs, bias, step.inputs[1])
                made[id(step)] = Step("Attention", inputs, step.outputs, {"scale": number})
    return _without(steps, gone, made)


def _close(number: float | None, wanted: float) -> bool:
    return number is not None and abs(number - wanted) <= 1e-5 * wanted
