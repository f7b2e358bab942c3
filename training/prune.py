"""Prune: smaller forms of the encoder and of the cross-encoders, recovered against the whole ones.

Structure alone is pruned (whole layers, attention heads, feed-forward neurons), since only that makes a
processor faster; words were already cut by `prepare`. Each variant of the recipe is made from the whole
model: layers first, then what matters least in those that stay, a least-squares refit, and a distillation on
catalogue texts and training queries. Fold-wise models are pruned like the one that ships, so that out-of-fold
figures stay out of fold.

Writes `prune/<variant>.pt`, `prune/<variant>.fold<k>.pt` where there are such models, and
`prune/report.json`; a file that is there is not made again. The originals stay; `prune.ship` says which
variant is used from `quantise` on.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from training.data.batches import Specials, pair_batch, text_batch
from training.data.whole_files import write_report
from training.distil import student_file
from training.encoder import encoder_path
from training.models.networks import CrossEncoder, Encoder, load_cross, load_encoder, save_model
from training.models.pruning import (
    Batch,
    distortion,
    importance,
    least_harmful_layers,
    most_important,
    outputs,
    parameters,
    shrink,
    spread_layers,
    without_layers,
)
from training.prepare import Prepared, load_prepared
from training.quality import (
    JudgedList,
    JudgedProducts,
    Quality,
    Vectors,
    encoder_quality,
    judged_lists,
    judged_products,
    means,
    product_vectors,
    quality_of,
    share_kept,
    text_encoder,
)
from training.recipe import CROSS_TIERS, PruneRecipe, PruneVariant, Recipe, RecipeError, stage_arguments
from training.recover import RecoveryTexts, recover

MODELS = ("encoder", *CROSS_TIERS)
_BATCH = 16

Model = TypeVar("Model", bound=Encoder | CrossEncoder)


def prune(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Run the stage. Returns what prune/report.json says: variant to its sizes and what it kept.

    Raises: RecipeError naming the key; FileNotFoundError where a model was not trained.
    """
    settings = recipe.prune
    check_prune(settings)
    if not settings.variants:
        return {}
    prepared = load_prepared(run)
    texts = RecoveryTexts.of(recipe, prepared)
    judge = _Judge(recipe, prepared, run)
    report: dict[str, Any] = {}
    for variant in settings.variants:
        batches = _batches(recipe, variant, texts)
        made: list[dict[str, Any]] = []
        for number, source in enumerate(whole_files(recipe, run, variant.model)):
            if not source.is_file():
                stage = "encoder" if variant.model == "encoder" else "distil"
                raise FileNotFoundError(f"{source} is missing: run `python -m training.{stage}` first")
            path = pruned_file(run, variant.name, number - 1 if number else None)
            teacher = load_model(source, variant.model)
            made.append(_made(recipe, path, teacher, variant, batches, texts, recipe.seed + 201 + number))
        report[variant.name] = made[0] | judge.judged(variant)
        write_report(run / "prune" / "report.json", report)
    return report


def check_prune(settings: PruneRecipe) -> None:
    """Raises: RecipeError naming the key that says what cannot be done."""
    names = [variant.name for variant in settings.variants]
    for at, variant in enumerate(settings.variants):
        where = f"prune.variants[{at}]"
        if not variant.name or not variant.name.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(f"{where}.name must be letters, digits, - and _, not {variant.name!r}")
        if variant.name in names[:at]:
            raise RecipeError(f"{where}.name: {variant.name!r} is already another variant's")
        if variant.model not in MODELS:
            raise RecipeError(f"{where}.model must be one of {', '.join(MODELS)}, not {variant.model!r}")
        for key in ("layers", "heads", "inner"):
            if not 0.0 < getattr(variant, key) <= 1.0:
                raise RecipeError(f"{where}.{key} must be a share above 0 and at most 1")
    if settings.choose_layers not in ("measured", "spread"):
        raise RecipeError(
            f"prune.choose_layers must be 'measured' or 'spread', not {settings.choose_layers!r}"
        )
    if settings.sample < 1 or settings.inner_multiple < 1:
        raise RecipeError("prune.sample and prune.inner_multiple must be at least 1")
    for model, name in settings.ship.items():
        if not any(variant.name == name and variant.model == model for variant in settings.variants):
            raise RecipeError(f"prune.ship.{model}: no variant of that model is called {name!r}")


def whole_file(run: Path, model: str, fold: int | None = None) -> Path:
    """Where training wrote a model. fold: the one that saw no label of that fold; None: what ships."""
    if model == "encoder":
        return encoder_path(run, fold)
    return student_file(run, model, fold)


def pruned_file(run: Path, variant: str, fold: int | None = None) -> Path:
    """Where a variant is written. fold: as in `whole_file`."""
    return run / "prune" / (f"{variant}.pt" if fold is None else f"{variant}.fold{fold}.pt")


def whole_files(recipe: Recipe, run: Path, model: str) -> list[Path]:
    """What ships, then one a fold; no folds where they are not there (an encoder that learnt no label)."""
    folds = [whole_file(run, model, fold) for fold in range(recipe.folds)]
    return [whole_file(run, model), *(folds if all(path.is_file() for path in folds) else [])]


def model_files(recipe: Recipe, run: Path, model: str) -> list[Path]:
    """The models that the stages after this one use: what ships, then one a fold where there are such.

    They are the whole ones, or those of the variant that ships.
    Raises: FileNotFoundError where a variant ships that was not made; RecipeError naming the key.
    """
    check_prune(recipe.prune)
    whole = whole_files(recipe, run, model)
    name = recipe.prune.ship.get(model)
    if name is None or not whole[0].is_file():
        return whole
    paths = [pruned_file(run, name), *(pruned_file(run, name, fold) for fold in range(len(whole) - 1))]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `python -m training.prune` first")
    return paths


def load_model(path: Path, model: str) -> Encoder | CrossEncoder:
    """A model of either kind as saved. model: "encoder" or a cross tier."""
    return load_encoder(path) if model == "encoder" else load_cross(path)


def pruned(
    model: Model, settings: PruneRecipe, variant: PruneVariant, batches: Sequence[Batch], seed: int
) -> tuple[Model, dict[str, Any]]:
    """A smaller copy of a model, not yet recovered, and how it was made.

    batches: inputs by which what matters is measured.
    """
    wanted = outputs(model, batches)
    layers = model.stack.shape.layers
    count = max(1, round(layers * variant.layers))
    if settings.choose_layers == "measured":
        # Layers differ by so much that a quarter of the texts tells them apart.
        kept = least_harmful_layers(model, count, batches[::4])
    else:
        kept = spread_layers(layers, count)
    smaller = without_layers(model, kept)
    found = importance(smaller, batches, torch.Generator().manual_seed(seed))
    heads = most_important([one.heads for one in found], variant.heads, 1)
    inner = most_important([one.inner for one in found], variant.inner, settings.inner_multiple)
    if variant.heads < 1.0 or variant.inner < 1.0:
        smaller = shrink(smaller, heads, inner, batches)
    return smaller, {
        "layers": kept,
        "heads": [len(one) for one in heads],
        "inner": [len(one) for one in inner],
        "distortion": round(distortion(smaller, wanted, batches), 5),
    }


def _batches(recipe: Recipe, variant: PruneVariant, texts: RecoveryTexts) -> list[Batch]:
    """Inputs by which what matters is measured: the same for every fold and variant."""
    chooser = np.random.default_rng(recipe.seed + 200)
    sample = recipe.prune.sample
    if variant.model != "encoder":
        groups = [texts.draw_group(_BATCH, chooser) for _ in range(max(1, sample // _BATCH))]
        return [pair_batch(*group, texts.specials) for group in groups]
    rows = texts.draw_products(sample, chooser) + texts.draw_queries(sample, chooser)
    return [text_batch(rows[start : start + _BATCH], texts.specials) for start in range(0, len(rows), _BATCH)]


def _made(
    recipe: Recipe,
    path: Path,
    teacher: Encoder | CrossEncoder,
    variant: PruneVariant,
    batches: Sequence[Batch],
    texts: RecoveryTexts,
    seed: int,
) -> dict[str, Any]:
    """Make one file, unless it is there already. Returns how it was made."""
    notes = path.with_suffix(".json")
    asked = {"layers": variant.layers, "heads": variant.heads, "inner": variant.inner}
    if path.is_file() and notes.is_file():
        made: dict[str, Any] = json.loads(notes.read_text())
        if made["asked"] != asked:
            raise RecipeError(
                f"{path} was pruned to {made['asked']}, the recipe now asks for {asked}: give the variant "
                "another name, or remove the file"
            )
        return made
    recovery = recipe.prune.recovery
    smaller, made = pruned(teacher, recipe.prune, variant, batches, seed)
    wanted = outputs(teacher, batches)
    before, kept = distortion(smaller, wanted, batches), True
    recovered: dict[str, float] = {}
    if recovery.steps:
        tried = copy.deepcopy(smaller)
        recovered = recover(tried, teacher, texts, recovery, seed=seed, name=f"recovering {path.stem}")
        # Where hardly anything was lost, training can do more harm than good.
        kept = distortion(tried, wanted, batches) < before
        smaller = tried if kept else smaller
    made |= {
        "model": variant.model,
        "asked": asked,
        "parameters": parameters(smaller),
        "parameters_whole": parameters(teacher),
        "distortion_recovered": round(distortion(smaller, wanted, batches), 5),
        "recovery": recovered,
        "recovery_kept": kept,
    }
    write_report(notes, made)
    save_model(path, smaller)
    return made


class _Judge:
    """Judged-only nDCG@10 of whole and pruned models over the training queries, a whole one measured once."""

    def __init__(self, recipe: Recipe, prepared: Prepared, run: Path) -> None:
        self._recipe = recipe
        self._run = run
        self._lists: list[JudgedList] = judged_lists(recipe, prepared)
        self._products: JudgedProducts = judged_products(recipe, prepared, self._lists)
        self._specials = Specials.of(prepared.tokenizer)
        self._whole_vectors: list[Vectors] = []
        self._whole: dict[str, dict[str, Quality]] = {}

    def judged(self, variant: PruneVariant) -> dict[str, Any]:
        """{"ndcg10": score to set to mean, "ndcg10_whole": the same, "kept": score to share of that}."""
        if variant.model not in self._whole:
            self._whole[variant.model] = self._measure(variant.model, None)
        whole = self._whole[variant.model]
        found = self._measure(variant.model, variant.name)
        return {
            "ndcg10": {name: means(quality) for name, quality in found.items()},
            "ndcg10_whole": {name: means(quality) for name, quality in whole.items()},
            "kept": {
                name: round(share_kept(quality, whole[name.removesuffix("_query_only")]), 4)
                for name, quality in found.items()
            },
        }

    def _measure(self, model: str, variant: str | None) -> dict[str, Quality]:
        run, lists, products = self._run, self._lists, self._products
        folds = whole_files(self._recipe, run, model)[1:]
        numbers: list[int | None] = list(range(len(folds))) or [None]
        paths = [
            whole_file(run, model, fold) if variant is None else pruned_file(run, variant, fold)
            for fold in numbers
        ]
        models = [load_model(path, model) for path in paths]
        if model != "encoder":
            return quality_of(self._recipe, lists, products, models, self._specials)
        encoders = [text_encoder(one, self._specials) for one in models]
        vectors = product_vectors(self._recipe, lists, products, encoders)
        found = encoder_quality(lists, vectors, encoders)
        if variant is None:
            self._whole_vectors = vectors
        else:
            # Products can be encoded by the whole model when they are indexed; only the query is in a hurry.
            apart = encoder_quality(lists, self._whole_vectors, encoders)
            found |= {f"{name}_query_only": quality for name, quality in apart.items()}
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Smaller models, recovered.", argv)
    print(json.dumps(prune(arguments.recipe, arguments.run), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
