"""int8 is measured in nDCG, its range is chosen by what it changes, and training for it must pay."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Workplace
from training.models.networks import load_encoder
from training.models.pruning import distortion
from training.prepare import load_prepared
from training.quantise import (
    best_range,
    calibration_batches,
    check_quantise,
    export_encoder,
    onnx_outputs,
    open_session,
    quantise,
    trained_for_int8,
)
from training.recipe import QuantiseRecipe, RecipeError, RecoveryRecipe
from training.recover import RecoveryTexts


@pytest.fixture(scope="module")
def texts(workplace: Workplace) -> RecoveryTexts:
    torch.set_num_threads(1)
    return RecoveryTexts.of(workplace.recipe, load_prepared(workplace.run))


@pytest.fixture
def report(workplace: Workplace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workplace.run / "onnx" / "report.json").read_text())
    return found


def copied(workplace: Workplace, folder: Path) -> Path:
    run = folder / "run"
    shutil.copytree(
        workplace.run, run, ignore=shutil.ignore_patterns("draft", "bundle", "catalogues", "onnx")
    )
    return run


def test_the_report_says_what_int8_loses_in_ndcg(report: dict[str, Any]) -> None:
    for model, scores in (("encoder", ("dense", "late")), ("cross_small", ("cross",))):
        for score in scores:
            before, after = (report[model]["ndcg10"][score][form]["shop"] for form in ("float32", "int8"))
            assert 0.0 < before <= 1.0
            assert report[model]["loss"][score] == pytest.approx(1.0 - after / before, abs=2e-4)
    assert (report["encoder"]["fold_wise"], report["cross_small"]["fold_wise"]) == (False, True)


def test_the_range_of_weights_is_the_one_that_changes_the_outputs_least(report: dict[str, Any]) -> None:
    for model in ("encoder", "cross_small"):
        changes = report[model]["changes"]
        assert set(changes) == {"max", "mse"}
        assert changes[report[model]["range"]] == min(changes.values())


def test_a_range_that_cuts_off_most_of_the_weights_is_not_chosen(
    workplace: Workplace, texts: RecoveryTexts
) -> None:
    settings = QuantiseRecipe(ranges=["percentile", "max"], percentile=50.0, calibration_texts=32)
    encoder = load_encoder(workplace.run / "encoder.pt")
    kind, changes = best_range(settings, encoder, calibration_batches(settings, encoder, texts, 1))
    assert kind == "max"
    assert changes["percentile"] > changes["max"]


def test_all_eight_bits_change_less_than_seven(workplace: Workplace, texts: RecoveryTexts) -> None:
    changes = {}
    for bits in (7, 8):
        settings = QuantiseRecipe(ranges=["max"], weight_bits=bits, calibration_texts=32)
        encoder = load_encoder(workplace.run / "encoder.pt")
        changes[bits] = best_range(settings, encoder, calibration_batches(settings, encoder, texts, 1))[1][
            "max"
        ]
    assert changes[8] < changes[7]


def test_float32_export_says_what_torch_says(
    workplace: Workplace, texts: RecoveryTexts, tmp_path: Path
) -> None:
    encoder = load_encoder(workplace.run / "encoder.pt")
    export_encoder(encoder, tmp_path / "plain.onnx", int8=False)
    batches = calibration_batches(QuantiseRecipe(calibration_texts=32), encoder, texts, 1)
    found = onnx_outputs(open_session(tmp_path / "plain.onnx"), batches)
    assert distortion(encoder, found, batches) < 1e-8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.onnx"]


def test_training_with_rounding_brings_int8_nearer_to_float32(
    workplace: Workplace, texts: RecoveryTexts, tmp_path: Path
) -> None:
    settings = QuantiseRecipe(
        calibration_texts=64, recovery=RecoveryRecipe(steps=80, batch=16, learning_rate=3e-4)
    )
    encoder = load_encoder(workplace.run / "encoder.pt")
    batches = calibration_batches(settings, encoder, texts, 1)
    made, went = trained_for_int8(settings, encoder, "max", batches, texts, seed=3, name="trained")
    assert went["steps"] == 80
    # On texts that it was not trained with step by step, through the real exporter and kernels.
    others = calibration_batches(settings, encoder, texts, 99)
    gaps = []
    for model, name in ((encoder, "plain"), (made, "trained")):
        export_encoder(model, tmp_path / f"{name}.onnx")
        gaps.append(
            distortion(encoder, onnx_outputs(open_session(tmp_path / f"{name}.onnx"), others), others)
        )
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize("loss_max", [1.0, -1.0])
def test_training_for_int8_runs_only_above_the_loss_allowed_and_is_kept_only_if_better(
    workplace: Workplace, tmp_path: Path, loss_max: float
) -> None:
    run = copied(workplace, tmp_path)
    for path in (*run.glob("cross_*.pt"), *(run / "distil").glob("*.pt")):
        path.unlink()
    settings = replace(workplace.recipe.quantise, loss_max=loss_max)
    found = quantise(replace(workplace.recipe, quantise=settings), run)["encoder"]
    plain = quantise(
        replace(workplace.recipe, quantise=replace(workplace.recipe.quantise, loss_max=1.0)), run
    )["encoder"]
    if loss_max > 0:
        assert found["quantisation_aware"] == {}
        assert found["loss"] == plain["loss"]
        return
    trained = found["quantisation_aware"]
    assert trained["recovery"]["steps"] == workplace.recipe.quantise.recovery.steps
    assert trained["kept"] == (max(trained["loss"].values()) < max(plain["loss"].values()))
    assert trained["loss_before"] == plain["loss"]
    assert found["loss"] == (trained["loss"] if trained["kept"] else plain["loss"])
    assert not list((run / "onnx").glob("*.tried"))


def test_students_of_every_fold_are_exported_to_measure_with(workplace: Workplace) -> None:
    names = {path.name for path in (workplace.run / "onnx").iterdir()}
    students = {f"{tier}.onnx" for tier in workplace.recipe.students()}
    folds = {
        f"{tier}.fold{fold}.onnx"
        for tier in workplace.recipe.students()
        for fold in range(workplace.recipe.folds)
    }
    assert names == {"encoder.onnx", "report.json"} | students | folds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (QuantiseRecipe(ranges=[]), r"quantise\.ranges must be some of max, percentile, mse"),
        (QuantiseRecipe(ranges=["median"]), r"quantise\.ranges"),
        (QuantiseRecipe(percentile=0.0), r"quantise\.percentile"),
        (QuantiseRecipe(weight_bits=4), r"quantise\.weight_bits must be 7 or 8"),
        (QuantiseRecipe(activations="row"), r"quantise\.activations must be one of tensor, token, none"),
        (QuantiseRecipe(calibration_texts=0), r"quantise\.calibration_texts"),
    ],
)
def test_a_recipe_that_cannot_be_followed_names_the_key(settings: QuantiseRecipe, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_quantise(settings)
