"""Rounding in float32 is the rounding that the exporter and its kernels do."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.training.models.test_pruning import batches, encoder
from training.models.pruning import Batch, distortion, outputs, stack_layers
from training.models.rounding import (
    cut_weights,
    input_moments,
    round_activations,
    round_weights,
    rounded,
    rounded_linears,
    weight_levels,
)
from training.quantise import export_encoder, onnx_outputs, open_session


def test_rounded_weights_are_the_ones_the_exporter_stores(tmp_path: Path) -> None:
    model = encoder()
    export_encoder(model, tmp_path / "int8.onnx")
    stored = {
        one.name: numpy_helper.to_array(one) for one in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    wanted = [round_weights(linear.weight.data, 64) for linear in rounded_linears(model).values()]
    names = [name.removesuffix("_quantized") for name in stored if name.endswith("_quantized")]
    assert len(names) == len(wanted) == 6 * 3 + 1
    for name in names:
        found = torch.from_numpy(stored[f"{name}_quantized"] * stored[f"{name}_scale"]).T
        assert any(one.shape == found.shape and torch.allclose(one, found, atol=1e-6) for one in wanted), name


def test_rounding_foretells_what_int8_says(tmp_path: Path) -> None:
    model = encoder()
    export_encoder(model, tmp_path / "int8.onnx")
    # One text at a time: a tensor's range depends on what else is in the batch.
    inputs: list[Batch] = [(ids[:1], mask[:1]) for ids, mask in batches()]
    found = onnx_outputs(open_session(tmp_path / "int8.onnx"), inputs)
    plain = distortion(model, found, inputs)
    with rounded(model, levels=weight_levels(7), activations="tensor"):
        foretold = distortion(model, found, inputs)
    assert foretold < 0.2 * plain
    assert distortion(model, found, inputs) == pytest.approx(plain)


def test_gradients_pass_through_and_training_outlives_the_rounding() -> None:
    model = encoder()
    before = copy.deepcopy(model.state_dict())
    with rounded(model, levels=64, activations="token"):
        dense, tokens = model(*batches(1)[0])
        (dense.sum() + tokens.sum()).backward()
        weight = dict(model.named_parameters())["stack.layers.0.widen.parametrizations.weight.original"]
        assert weight.grad is not None
        assert float(weight.grad.abs().sum()) > 0.0
        weight.data += 1.0
    after = model.state_dict()
    assert set(after) == set(before)
    for name, value in after.items():
        step = 1.0 if name == "stack.layers.0.widen.weight" else 0.0
        torch.testing.assert_close(value, before[name] + step)


def test_each_kind_of_activation_has_its_own_grid() -> None:
    values = torch.tensor([[0.1, 0.2, -0.4], [10.0, 20.0, -40.0]])
    assert round_activations(values, "none") is values
    by_token, by_tensor = round_activations(values, "token"), round_activations(values, "tensor")
    assert float((by_token - values)[0].abs().max()) <= 0.4 / 127 / 2 + 1e-7
    assert float((by_tensor - values).abs().max()) <= 60 / 255 / 2 + 1e-5
    # The small token drowns in a scale made for the large one.
    assert float(by_tensor[0, 0]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="tensor, token, none"):
        round_activations(values, "row")


def test_a_range_by_least_error_beats_the_whole_range_on_its_own_measure() -> None:
    model = encoder()
    linear = stack_layers(model.stack)[0].widen
    linear.weight.data[:, 0] *= 12.0  # an outlier in every row, on an input that is hardly ever large
    inputs = batches()
    moments = input_moments(model, inputs)
    weight = linear.weight.data.clone()
    errors = {}
    for kind in ("max", "mse", "percentile"):
        tried = copy.deepcopy(model)
        cut_weights(tried, kind, levels=64, percentile=95.0, moments=moments)
        found = round_weights(stack_layers(tried.stack)[0].widen.weight.data, 64)
        errors[kind] = float(((found - weight).pow(2) * moments["stack.layers.0.widen"]).sum())
    assert errors["mse"] <= errors["max"]
    assert errors["percentile"] > errors["mse"]
    with pytest.raises(ValueError, match="a range is one of"):
        cut_weights(model, "median", levels=64, percentile=95.0, moments=moments)


def test_cutting_the_weights_is_choosing_the_exporters_range(tmp_path: Path) -> None:
    model, inputs = encoder(), batches(2)
    wanted = outputs(model, inputs)
    cut = copy.deepcopy(model)
    cut_weights(cut, "percentile", levels=64, percentile=60.0, moments={})
    export_encoder(cut, tmp_path / "narrow.onnx")
    export_encoder(model, tmp_path / "whole.onnx")
    gaps = {}
    for name in ("narrow", "whole"):
        found = onnx_outputs(open_session(tmp_path / f"{name}.onnx"), inputs)
        gaps[name] = float(sum((one - two).pow(2).sum() for one, two in zip(found, wanted, strict=True)))
    assert gaps["narrow"] > gaps["whole"]


@pytest.mark.parametrize("bits", [4, 16])
def test_only_widths_that_the_exporter_has_are_taken(bits: int) -> None:
    with pytest.raises(ValueError, match="7 or 8 bits"):
        weight_levels(bits)
