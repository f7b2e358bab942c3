"""Quantise: models to ONNX, int8 per output channel, the embedding table int8 per row.

Weights use 7 of the 8 bits by default (reduce_range): processors with AVX2 but without VNNI add pairs of
8-bit products in 16 bits, which would saturate. The range that a row of weights covers is chosen by how
little the outputs change on calibration texts. Where int8 still loses more nDCG than the recipe allows, the
model is trained on with the rounding in its forward pass, and that form is kept if it is better.

Writes `onnx/encoder.onnx`, `onnx/<tier>.onnx` of each trained cross tier, `onnx/<model>.fold<k>.onnx` where
there are fold-wise models (to measure with), and `onnx/report.json`. A variant that `prune.ship` names takes
the place of the whole model.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from training.data.batches import pair_batch, text_batch
from training.data.whole_files import write_report
from training.models.networks import CrossEncoder, Encoder
from training.models.pruning import Batch, cross_seen, encoder_seen, outputs
from training.models.rounding import (
    ACTIVATIONS,
    RANGES,
    cut_weights,
    input_moments,
    rounded,
    weight_levels,
)
from training.prepare import load_prepared
from training.prune import MODELS, load_model, model_files
from training.quality import (
    JudgedList,
    JudgedProducts,
    Quality,
    judged_lists,
    judged_products,
    means,
    quality_of,
    share_kept,
)
from training.recipe import QuantiseRecipe, Recipe, RecipeError, stage_arguments
from training.recover import RecoveryTexts, recover

_BATCH = 16

Model = TypeVar("Model", bound=Encoder | CrossEncoder)


def export_encoder(encoder: Encoder, path: Path, *, int8: bool = True, weight_bits: int = 7) -> None:
    """Write an encoder as ONNX with the outputs "dense" and "tokens". int8: False for float32."""
    ids = torch.ones(2, 7, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids}
    _export(encoder, inputs, ["dense", "tokens"], path, int8, weight_bits)


def export_cross(cross: CrossEncoder, path: Path, *, int8: bool = True, weight_bits: int = 7) -> None:
    """Write a cross-encoder as ONNX with the output "score". int8: False for float32."""
    ids = torch.ones(2, 7, dtype=torch.long)
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": kinds}
    _export(cross, inputs, ["score"], path, int8, weight_bits)


def export_model(
    model: Encoder | CrossEncoder, path: Path, *, int8: bool = True, weight_bits: int = 7
) -> None:
    """Write a model of either kind as ONNX."""
    if isinstance(model, Encoder):
        export_encoder(model, path, int8=int8, weight_bits=weight_bits)
    else:
        export_cross(model, path, int8=int8, weight_bits=weight_bits)


def open_session(path: Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the processor with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export(
    model: Encoder | CrossEncoder,
    inputs: Mapping[str, Tensor],
    names: list[str],
    path: Path,
    int8: bool,
    weight_bits: int,
) -> None:
    model.eval()
    if int8:
        model.stack.freeze_words()
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "length"} for name in inputs}
    axes |= {name: {0: "batch"} | ({1: "length"} if name == "tokens" else {}) for name in names}
    write_graph(model, inputs, names, axes, path, int8=int8, weight_bits=weight_bits)
    model.stack.words_int8 = model.stack.words_scale = None


def write_graph(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    names: list[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
    *,
    int8: bool = True,
    weight_bits: int = 7,
) -> None:
    """Write a module as ONNX, whole or not at all.

    inputs: example values by name, in the order of the arguments; names: of the outputs; axes: name to the
    axes that vary. int8: matrix products with constants in int8 per output channel, of `weight_bits`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "small"))
        with warnings.catch_warnings():
            # The tracing exporter is marked for removal; its graph is the unfused one that runs fastest.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Unrecorded(model),
                tuple(inputs.values()),
                str(plain),
                input_names=list(inputs),
                output_names=names,
                dynamic_axes={name: dict(of_name) for name, of_name in axes.items()},
                opset_version=17,
                dynamo=False,
            )
        made = plain
        if int8:
            onnx.save(onnx.shape_inference.infer_shapes(onnx.load(plain)), ready)
            quantize_dynamic(
                ready,
                small,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=weight_levels(weight_bits) == weight_levels(7),
                weight_type=QuantType.QInt8,
                # Attention's own products (activation by activation) stay in float32.
                extra_options={"MatMulConstBOnly": True},
            )
            made = small
        whole = onnx.load(made)
    _drop_notes(whole)
    part = path.with_suffix(".part")
    onnx.save(whole, part)
    part.rename(path)


class _Unrecorded(nn.Module):
    """The same forward pass without gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            return self.model(*inputs)


def _drop_notes(model: onnx.ModelProto) -> None:
    # Names of source files and shapes of every step are of no use to a reader and a tenth of the size.
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:]


def check_quantise(settings: QuantiseRecipe) -> None:
    """Raises: RecipeError naming the key that says what cannot be done."""
    if not settings.ranges or not set(settings.ranges) <= set(RANGES):
        raise RecipeError(f"quantise.ranges must be some of {', '.join(RANGES)}, not {settings.ranges}")
    if not 0.0 < settings.percentile <= 100.0:
        raise RecipeError("quantise.percentile must be above 0 and at most 100")
    if settings.weight_bits not in (7, 8):
        raise RecipeError(f"quantise.weight_bits must be 7 or 8, not {settings.weight_bits}")
    if settings.activations not in ACTIVATIONS:
        raise RecipeError(f"quantise.activations must be one of {', '.join(ACTIVATIONS)}")
    if settings.calibration_texts < 1:
        raise RecipeError("quantise.calibration_texts must be at least 1")


def calibration_batches(
    settings: QuantiseRecipe, model: Encoder | CrossEncoder, texts: RecoveryTexts, seed: int
) -> list[Batch]:
    """Inputs by which ranges are chosen: products and short texts, or training queries with products."""
    chooser = np.random.default_rng(seed)
    if isinstance(model, CrossEncoder):
        groups = [
            texts.draw_group(_BATCH, chooser) for _ in range(max(1, settings.calibration_texts // _BATCH))
        ]
        return [pair_batch(*group, texts.specials) for group in groups]
    half = max(1, settings.calibration_texts // 2)
    batches: list[Batch] = []
    for rows in (texts.draw_products(half, chooser), texts.draw_queries(half, chooser)):
        batches += [
            text_batch(rows[start : start + _BATCH], texts.specials) for start in range(0, half, _BATCH)
        ]
    return batches


def onnx_outputs(session: onnxruntime.InferenceSession, batches: Sequence[Batch]) -> list[Tensor]:
    """Outputs of an exported model, arranged as `training.models.pruning.outputs` arranges a model's."""
    found = []
    names = [one.name for one in session.get_inputs()]
    for batch in batches:
        values = {name: one.numpy() for name, one in zip(names, batch, strict=True)}
        got = [torch.from_numpy(one) for one in session.run(None, values)]
        found.append(cross_seen(got[0]) if len(got) == 1 else encoder_seen(got[0], got[1], batch[1]))
    return found


def best_range(
    settings: QuantiseRecipe, model: Encoder | CrossEncoder, batches: Sequence[Batch]
) -> tuple[str, dict[str, float]]:
    """The range of weights with which int8 changes the outputs least.

    Returns: its name, and the mean squared change of the outputs by range.
    """
    wanted = outputs(model, batches)
    moments = input_moments(model, batches)
    changes = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tried.onnx"
        for kind in settings.ranges:
            export_model(_cut(settings, model, kind, moments), path, weight_bits=settings.weight_bits)
            found = onnx_outputs(open_session(path), batches)
            gaps = [(one - other).pow(2).sum(1) for one, other in zip(found, wanted, strict=True)]
            changes[kind] = round(float(torch.cat(gaps).mean()), 6)
    return min(changes, key=lambda kind: changes[kind]), changes


def export_int8(
    settings: QuantiseRecipe,
    model: Encoder | CrossEncoder,
    path: Path,
    batches: Sequence[Batch],
    kind: str | None = None,
) -> str:
    """Write a model as int8 with this range of weights (None: the best). Returns: the range."""
    kind = kind or best_range(settings, model, batches)[0]
    cut = _cut(settings, model, kind, input_moments(model, batches))
    export_model(cut, path, weight_bits=settings.weight_bits)
    return kind


def trained_for_int8(
    settings: QuantiseRecipe,
    model: Model,
    kind: str,
    batches: Sequence[Batch],
    texts: RecoveryTexts,
    *,
    seed: int,
    name: str,
) -> tuple[Model, dict[str, float]]:
    """A copy trained towards the model itself while its weights and activations are rounded.

    kind: range from which it starts. Returns: the copy, to be exported with the range "max", and how its loss
    went.
    """
    made = _cut(settings, model, kind, input_moments(model, batches))
    levels = weight_levels(settings.weight_bits)
    with rounded(made, levels=levels, activations=settings.activations):
        report = recover(made, model, texts, settings.recovery, seed=seed, name=name)
    return made, report


def quantise(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Run the stage. Returns sizes in bytes, and what int8 keeps of float32, per model.

    Raises: RecipeError naming the key; FileNotFoundError where a model was not trained.
    """
    check_quantise(recipe.quantise)
    prepared = load_prepared(run)
    texts = RecoveryTexts.of(recipe, prepared)
    lists = judged_lists(recipe, prepared)
    products = judged_products(recipe, prepared, lists)
    report = {}
    for name in MODELS:
        paths = model_files(recipe, run, name)
        if name != "encoder" and not paths[0].is_file():
            continue
        models = [load_model(path, name) for path in paths]
        files = onnx_files(run, name, len(models) - 1)
        report[name] = _quantise(recipe, models, files, texts, lists, products)
    write_report(run / "onnx" / "report.json", report)
    return report


def onnx_files(run: Path, model: str, folds: int) -> list[Path]:
    """Where a model is exported: what ships, then one a fold."""
    return [
        run / "onnx" / name
        for name in (f"{model}.onnx", *(f"{model}.fold{fold}.onnx" for fold in range(folds)))
    ]


def _quantise(
    recipe: Recipe,
    models: Sequence[Encoder | CrossEncoder],
    files: Sequence[Path],
    texts: RecoveryTexts,
    lists: Sequence[JudgedList],
    products: JudgedProducts,
) -> dict[str, Any]:
    """models, files: what ships, then one a fold where there are such."""
    settings = recipe.quantise
    batches = calibration_batches(settings, models[0], texts, recipe.seed + 300)
    kind, changes = best_range(settings, models[0], batches)
    for model, file in zip(models, files, strict=True):
        export_int8(settings, model, file, batches, kind)
    # Fold-wise models tell what int8 is worth; without them what ships does, which saw no label or is
    # flattered before and after.
    judges = slice(1, None) if len(models) > 1 else slice(None)
    before = quality_of(recipe, lists, products, models[judges], texts.specials)

    def measured(suffix: str) -> tuple[dict[str, Quality], dict[str, float]]:
        sessions = [open_session(file.with_suffix(suffix)) for file in files[judges]]
        after = quality_of(recipe, lists, products, sessions, texts.specials)
        return after, {name: round(1.0 - share_kept(after[name], before[name]), 5) for name in before}

    after, losses = measured(".onnx")
    more: dict[str, Any] = {}
    if max(losses.values()) > settings.loss_max:
        went = []
        for number, (model, file) in enumerate(zip(models, files, strict=True)):
            made, report = trained_for_int8(
                settings,
                model,
                kind,
                batches,
                texts,
                seed=recipe.seed + 301 + number,
                name=f"{file.stem}, int8",
            )
            export_model(made, file.with_suffix(".tried"), weight_bits=settings.weight_bits)
            went.append(report)
        new_after, new_losses = measured(".tried")
        kept = max(new_losses.values()) < max(losses.values())
        more = {"recovery": went[0], "loss_before": losses, "loss": new_losses, "kept": kept}
        for file in files:
            if kept:
                file.with_suffix(".tried").rename(file)
            else:
                file.with_suffix(".tried").unlink()
        if kept:
            after, losses = new_after, new_losses
    return {
        "bytes": files[0].stat().st_size,
        **_agreement(models[0], onnx_outputs(open_session(files[0]), batches), batches),
        "range": kind,
        "changes": changes,
        "ndcg10": {name: {"float32": means(before[name]), "int8": means(after[name])} for name in before},
        "loss": losses,
        "fold_wise": len(models) > 1,
        "quantisation_aware": more,
    }


def _agreement(
    model: Encoder | CrossEncoder, found: Sequence[Tensor], batches: Sequence[Batch]
) -> dict[str, float]:
    """How near int8 is to float32 on the calibration texts."""
    wanted = outputs(model, batches)
    if isinstance(model, Encoder):
        width = model.stack.shape.width
        products = [one * other for one, other in zip(wanted, found, strict=True)]
        return {
            "dense_cosine": float(torch.cat([one[:, :width].sum(1) for one in products]).mean()),
            "token_cosine": float(torch.cat([one[:, width:].sum(1) for one in products]).mean()),
        }
    # A batch's scores are scaled by the root of its size.
    scales = [len(batch[0]) ** 0.5 for batch in batches]
    before, after = (
        torch.cat([one.flatten() * scale for one, scale in zip(scores, scales, strict=True)])
        for scores in (wanted, found)
    )
    return {
        "correlation": float(torch.corrcoef(torch.stack([before, after]))[0, 1]),
        "mean_gap": float((before - after).abs().mean()),
    }


def _cut(settings: QuantiseRecipe, model: Model, kind: str, moments: Mapping[str, Tensor]) -> Model:
    made = copy.deepcopy(model)
    levels = weight_levels(settings.weight_bits)
    cut_weights(made, kind, levels=levels, percentile=settings.percentile, moments=moments)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Models to int8 ONNX.", argv)
    print(json.dumps(quantise(arguments.recipe, arguments.run), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
