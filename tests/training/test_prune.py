"""Smaller models beside the whole ones: made once, measured, and used only where the recipe says so."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Workplace
from training.data.batches import Specials
from training.encoder import encoder_path
from training.models.networks import load_cross, load_encoder, save_model
from training.models.pruning import Batch, distortion, outputs, parameters
from training.prepare import load_prepared
from training.prune import check_prune, model_files, prune
from training.quality import judged_lists, judged_products, quality_of
from training.quantise import quantise
from training.recipe import PruneRecipe, PruneVariant, Recipe, RecipeError, RecoveryRecipe

SETTINGS = PruneRecipe(
    variants=[
        PruneVariant("half", "encoder", layers=0.5),
        PruneVariant("narrow", "encoder", heads=0.75, inner=0.5),
        PruneVariant("slim", "cross_small", inner=0.5),
    ],
    sample=32,
    inner_multiple=16,
    recovery=RecoveryRecipe(steps=30, batch=8, learning_rate=3e-4),
)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.pt"))}


@pytest.fixture(scope="module")
def pruned(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A run folder of its own: other tests look at the whole models."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("pruned") / "run"
    shutil.copytree(workplace.run, run, ignore=shutil.ignore_patterns("draft", "bundle", "catalogues"))
    recipe = replace(workplace.recipe, prune=SETTINGS)
    prune(recipe, run)
    return recipe, run


@pytest.fixture
def report(pruned: tuple[Recipe, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pruned[1] / "prune" / "report.json").read_text())
    return found


def test_each_variant_is_as_small_as_was_asked(pruned: tuple[Recipe, Path], report: dict[str, Any]) -> None:
    run = pruned[1]
    whole = load_encoder(run / "encoder.pt")
    half, narrow = load_encoder(run / "prune" / "half.pt"), load_encoder(run / "prune" / "narrow.pt")
    assert half.stack.shape.layers == 1
    assert sum(narrow.stack.shape.heads_by_layer) == 3
    assert sum(narrow.stack.shape.inner_by_layer) == 96
    for name, model in (("half", half), ("narrow", narrow)):
        assert report[name]["parameters"] == parameters(model) < parameters(whole)
        assert report[name]["parameters_whole"] == parameters(whole)
    assert report["half"]["layers"] in ([0], [1])
    assert report["narrow"]["heads"] == list(narrow.stack.shape.heads_by_layer)
    assert load_cross(run / "prune" / "slim.pt").stack.shape.inner_by_layer == (48,)


def test_recovery_brings_a_model_nearer_to_the_whole_one(report: dict[str, Any]) -> None:
    for name in ("half", "narrow"):
        assert 0.0 < report[name]["distortion_recovered"] < report[name]["distortion"], name
        assert report[name]["recovery_kept"] is True
    for name in ("half", "narrow", "slim"):
        assert report[name]["recovery"]["steps"] == 30


def test_a_recovery_that_leads_astray_is_not_kept(pruned: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = pruned
    shutil.copytree(run / "prepared", tmp_path / "prepared")
    shutil.copy2(run / "encoder.pt", tmp_path / "encoder.pt")
    # Nothing is taken away, so there is nothing to win back, and steps this long lose it.
    settings = replace(
        SETTINGS,
        variants=[PruneVariant("all")],
        recovery=RecoveryRecipe(steps=5, batch=4, learning_rate=0.1),
    )
    found = prune(replace(recipe, prune=settings), tmp_path)["all"]
    assert found["recovery_kept"] is False
    assert found["distortion_recovered"] == found["distortion"] == 0.0
    assert found["kept"]["dense"] == found["kept"]["late"] == 1.0


def test_half_precision_recovers_too(pruned: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = pruned
    shutil.copytree(run / "prepared", tmp_path / "prepared")
    shutil.copy2(run / "encoder.pt", tmp_path / "encoder.pt")
    settings = replace(
        SETTINGS,
        variants=[PruneVariant("half", layers=0.5)],
        recovery=replace(SETTINGS.recovery, precision="bfloat16"),
    )
    found = prune(replace(recipe, prune=settings), tmp_path)["half"]
    assert found["distortion_recovered"] < found["distortion"]
    assert load_encoder(tmp_path / "prune" / "half.pt").stack.words.weight.dtype == torch.float32
    unknown = replace(settings, recovery=replace(SETTINGS.recovery, precision="int3"))
    (tmp_path / "prune" / "half.pt").unlink()
    with pytest.raises(ValueError, match="must be float32 or bfloat16, not 'int3'"):
        prune(replace(recipe, prune=unknown), tmp_path)


def test_what_a_variant_keeps_is_a_share_of_the_whole_models_quality(report: dict[str, Any]) -> None:
    for name, scores in (("half", ("dense", "late")), ("slim", ("cross",))):
        for score in scores:
            after, before = report[name]["ndcg10"][score]["shop"], report[name]["ndcg10_whole"][score]["shop"]
            assert 0.0 < after <= 1.0
            assert report[name]["kept"][score] == pytest.approx(after / before, abs=2e-4)
    assert set(report["half"]["kept"]) == {"dense", "late", "dense_query_only", "late_query_only"}


def test_out_of_fold_students_are_pruned_like_the_one_that_ships(pruned: tuple[Recipe, Path]) -> None:
    recipe, run = pruned
    for fold in range(recipe.folds):
        small = load_cross(run / "prune" / f"slim.fold{fold}.pt")
        whole = load_cross(run / "distil" / f"cross_small.fold{fold}.pt")
        assert small.stack.shape.inner_by_layer == (48,)
        # Which neurons go is the student's own affair, and so is the head that it learnt.
        torch.testing.assert_close(small.stack.words.weight, whole.stack.words.weight)


def test_a_second_run_makes_nothing_again_and_the_whole_models_stay(
    pruned: tuple[Recipe, Path], workplace: Workplace
) -> None:
    recipe, run = pruned
    before = digests(run / "prune")
    times = {path: path.stat().st_mtime_ns for path in (run / "prune").glob("*.pt")}
    prune(recipe, run)
    assert digests(run / "prune") == before
    assert {path: path.stat().st_mtime_ns for path in (run / "prune").glob("*.pt")} == times
    assert digests(run)["encoder.pt"] == digests(workplace.run)["encoder.pt"]


def test_the_same_recipe_makes_the_same_model(pruned: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = pruned
    for name in ("prepared", "distil"):
        shutil.copytree(run / name, tmp_path / name)
    for name in ("encoder.pt", "cross_small.pt"):
        shutil.copy2(run / name, tmp_path / name)
    prune(replace(recipe, prune=replace(SETTINGS, variants=SETTINGS.variants[:1])), tmp_path)
    first, second = (load_encoder(one / "prune" / "half.pt") for one in (run, tmp_path))
    whole = load_encoder(run / "encoder.pt")
    ids = torch.arange(5, 45).reshape(4, 10)
    batches: list[Batch] = [(ids, torch.ones_like(ids))]
    # Sums depend in the last digit on how memory happens to be aligned, and biases without effect drift.
    apart = distortion(second, outputs(first, batches), batches)
    assert apart < 1e-4 * distortion(first, outputs(whole, batches), batches)


def test_another_share_under_an_old_name_is_refused(pruned: tuple[Recipe, Path]) -> None:
    recipe, run = pruned
    changed = replace(SETTINGS, variants=[PruneVariant("narrow", "encoder", inner=0.75)])
    with pytest.raises(RecipeError, match="give the variant another name, or remove the file"):
        prune(replace(recipe, prune=changed), run)


def test_a_variant_that_ships_is_what_is_quantised(pruned: tuple[Recipe, Path]) -> None:
    recipe, run = pruned
    whole = (run / "onnx" / "encoder.onnx").stat().st_size
    shipping = replace(recipe, prune=replace(SETTINGS, ship={"encoder": "half"}))
    assert model_files(shipping, run, "encoder") == [run / "prune" / "half.pt"]
    assert model_files(shipping, run, "cross_small")[2] == run / "distil" / "cross_small.fold1.pt"
    found = quantise(shipping, run)
    assert found["encoder"]["bytes"] < whole
    assert found["encoder"]["dense_cosine"] > 0.99


def test_a_variant_that_ships_but_was_not_made_names_the_stage(
    workplace: Workplace, pruned: tuple[Recipe, Path]
) -> None:
    shipping = replace(pruned[0], prune=replace(SETTINGS, ship={"encoder": "half"}))
    with pytest.raises(FileNotFoundError, match=r"run `python -m training\.prune` first"):
        quantise(shipping, workplace.run)


def test_without_variants_nothing_is_written(workplace: Workplace) -> None:
    assert prune(workplace.recipe, workplace.run) == {}
    assert not (workplace.run / "prune").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PruneRecipe(variants=[PruneVariant("a/b")]), r"variants\[0\]\.name must be letters"),
        (
            PruneRecipe(variants=[PruneVariant("a"), PruneVariant("a")]),
            r"variants\[1\]\.name: 'a' is already",
        ),
        (
            PruneRecipe(variants=[PruneVariant("a", "teacher")]),
            r"model must be one of encoder, cross_small, cross_large",
        ),
        (PruneRecipe(variants=[PruneVariant("a", inner=0.0)]), r"variants\[0\]\.inner must be a share"),
        (PruneRecipe(variants=[PruneVariant("a", layers=1.5)]), r"variants\[0\]\.layers must be a share"),
        (PruneRecipe(choose_layers="best"), "'measured' or 'spread'"),
        (PruneRecipe(sample=0), "at least 1"),
        (PruneRecipe(ship={"encoder": "a"}), r"prune\.ship\.encoder: no variant"),
        (PruneRecipe(variants=[PruneVariant("a")], ship={"cross_small": "a"}), r"prune\.ship\.cross_small"),
    ],
)
def test_a_recipe_that_cannot_be_followed_names_the_key(settings: PruneRecipe, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_prune(settings)


def test_fold_wise_encoders_are_pruned_and_judged_each_on_its_own_fold(
    pruned: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, run = pruned
    shutil.copytree(run / "prepared", tmp_path / "prepared")
    encoder = load_encoder(run / "encoder.pt")
    save_model(encoder_path(tmp_path, None), encoder)
    save_model(encoder_path(tmp_path, 0), encoder)
    # The other fold's encoder says the same of every text: only its own queries may suffer from it.
    for part in encoder.parameters():
        torch.nn.init.ones_(part)
    save_model(encoder_path(tmp_path, 1), encoder)
    settings = replace(
        SETTINGS,
        variants=[PruneVariant("half", layers=0.5)],
        recovery=replace(SETTINGS.recovery, steps=0),
        ship={"encoder": "half"},
    )
    shipping = replace(recipe, prune=settings)
    prune(shipping, tmp_path)
    names = ["half.pt", "half.fold0.pt", "half.fold1.pt"]
    assert model_files(shipping, tmp_path, "encoder") == [tmp_path / "prune" / name for name in names]
    lists = judged_lists(recipe, load_prepared(run))
    assert {one.fold for one in lists} == {0, 1}
    products = judged_products(recipe, load_prepared(run), lists)
    specials = Specials.of(load_prepared(run).tokenizer)
    good, bad = (load_encoder(tmp_path / "prune" / name) for name in names[1:])
    both = quality_of(recipe, lists, products, [good, bad], specials)["dense"]["shop"]
    alone = quality_of(recipe, lists, products, [good], specials)["dense"]["shop"]
    spoilt = quality_of(recipe, lists, products, [bad], specials)["dense"]["shop"]
    for one in lists:
        assert both[one.query_id] == (alone if one.fold == 0 else spoilt)[one.query_id]
    assert quantise(shipping, tmp_path)["encoder"]["fold_wise"] is True
