"""Students start from what they are told to start from, and see no label of the fold they are measured on."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import Workplace
from training.cross import Group, Pieces, group_loss, new_cross, score_products
from training.data.batches import pieces_of
from training.data.text import product_text
from training.distil import averaged, distil, student_file, taught, teacher_groups
from training.models.hub import load_scorer
from training.models.networks import load_cross
from training.prepare import load_prepared
from training.recipe import Recipe, RecipeError, StudentRecipe, checked_recipe
from training.teacher import fold_queries, member_folder


@pytest.fixture
def run(workplace: Workplace, tmp_path: Path) -> Path:
    shutil.copytree(workplace.run / "prepared", tmp_path / "run" / "prepared")
    shutil.copytree(workplace.run / "teacher", tmp_path / "run" / "teacher")
    return tmp_path / "run"


def large(recipe: Recipe) -> StudentRecipe:
    return recipe.students()["cross_large"]


@pytest.mark.parametrize("fold", [0, 1, None])
def test_a_student_that_starts_from_its_teacher_scores_like_it(
    workplace: Workplace, fold: int | None
) -> None:
    prepared = load_prepared(workplace.run)
    scorer, tokenizer = load_scorer(member_folder(workplace.run, fold, 0))
    student = taught(workplace.recipe, workplace.run, prepared, large(workplace.recipe), fold)
    pieces = Pieces.of(workplace.recipe, prepared)
    compared = 0
    for key, product in list(prepared.products["shop"].items())[:40]:
        text = product_text(product, workplace.recipe.text.cross_fields)
        whole = pieces_of(tokenizer, [text], workplace.recipe.text.cross_tokens_max)[0]
        # Words that the smaller vocabulary lost are cut otherwise, and then the two read different texts.
        if [prepared.kept_tokens[at] for at in pieces.sets["shop"][key]] != whole:
            continue
        query = pieces_of(tokenizer, ["red kettle"], 8)[0]
        own = [prepared.kept_tokens.index(token) for token in query]
        theirs = scorer.score(query, [whole])
        assert score_products(student, own, [pieces.sets["shop"][key]], pieces.specials) == pytest.approx(
            theirs, abs=1e-3
        )
        compared += 1
    assert compared > 5


def test_keeping_a_share_of_the_pretrained_weights_averages_them(workplace: Workplace, run: Path) -> None:
    prepared = load_prepared(run)
    recipe = replace(workplace.recipe, cross_small=None)
    settings = replace(large(recipe), keep_share=0.25)
    distil(replace(recipe, cross_large=settings), run)
    found = load_cross(student_file(run, "cross_large", 0)).state_dict()
    teacher = taught(recipe, run, prepared, settings, 0).state_dict()
    start = new_cross(recipe, settings, prepared).state_dict()
    for name, value in found.items():
        torch.testing.assert_close(value, 0.75 * teacher[name] + 0.25 * start[name], atol=1e-5, rtol=1e-4)


def test_labels_of_a_fold_do_not_reach_its_student(workplace: Workplace, run: Path) -> None:
    recipe = replace(
        workplace.recipe,
        cross_large=None,
        cross_small=replace(workplace.recipe.students()["cross_small"], pairs=0),
    )
    distil(recipe, run)
    before = {fold: load_cross(student_file(run, "cross_small", fold)).state_dict() for fold in (0, 1)}
    for path in (*(run / "distil").glob("*.pt"), run / "cross_small.pt"):
        path.unlink()
    path = run / "prepared" / "judgements.json"
    rows = json.loads(path.read_text())
    fold_0 = {query.query_id for query in fold_queries(recipe, load_prepared(run), 0)}
    for row in rows:
        if row["query_id"] in fold_0:
            row["gains"] = {key: 3.0 - gain for key, gain in row["gains"].items()}
    path.write_text(json.dumps(rows))
    distil(recipe, run)
    after = {fold: load_cross(student_file(run, "cross_small", fold)).state_dict() for fold in (0, 1)}
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert any(not torch.equal(value, after[1][name]) for name, value in before[1].items())


def test_what_is_there_is_not_trained_again(workplace: Workplace, run: Path) -> None:
    recipe = replace(workplace.recipe, cross_small=None)
    assert distil(recipe, run) == [run / "cross_large.pt"]
    stamps = {path: path.stat().st_mtime_ns for path in (run / "distil").iterdir()}
    distil(recipe, run)
    assert {path: path.stat().st_mtime_ns for path in (run / "distil").iterdir()} == stamps


def test_a_teacher_that_is_missing_is_named_with_its_stage(workplace: Workplace, run: Path) -> None:
    shutil.rmtree(member_folder(run, 1, 0))
    with pytest.raises(FileNotFoundError, match=r"fold1-seed0 is missing: run `python -m training\.teacher`"):
        distil(replace(workplace.recipe, cross_small=None), run)


def test_teachers_are_asked_about_queries_made_from_products_too(workplace: Workplace, run: Path) -> None:
    prepared = load_prepared(run)
    pieces = Pieces.of(workplace.recipe, prepared)
    real = {
        tuple(pieces_of(prepared.tokenizer, [query.text], 8)[0])
        for query in prepared.queries
        if query.split == "train"
    }
    shares = {}
    for share in (0.0, 1.0):
        settings = replace(workplace.recipe.students()["cross_small"], pairs=160, synthetic=share)
        chooser = np.random.default_rng(3)
        groups = teacher_groups(workplace.recipe, run, settings, prepared, pieces, 0, chooser)
        assert all(group.teacher and len(group.teacher) == len(group.products) for group in groups)
        shares[share] = np.mean([tuple(group.query) in real for group in groups])
    assert shares[0.0] == 1.0 and shares[1.0] < 0.3


def test_a_student_may_follow_its_teachers_list_by_list(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    pieces = Pieces.of(workplace.recipe, prepared)
    settings = workplace.recipe.students()["cross_large"]
    rows = list(pieces.sets["shop"].values())[:5]
    model = new_cross(workplace.recipe, settings, prepared)
    own = score_products(model, rows[0][:3], rows, pieces.specials)
    for losses in ({"margin": 1.0}, {"listwise": 1.0}, {"margin": 0.5, "listwise": 0.5}):
        told = replace(settings, teacher_losses=losses)
        with torch.inference_mode():
            same, turned = (
                float(group_loss(model, Group(rows[0][:3], rows, [], teacher), pieces.specials, told))
                for teacher in (own, own[::-1])
            )
        assert abs(same) < 1e-5 and turned > 1e-4


def test_an_average_lies_between_the_two(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    settings = large(workplace.recipe)
    one, other = (new_cross(workplace.recipe, settings, prepared) for _ in range(2))
    with torch.no_grad():
        other.mix.copy_(torch.tensor([20.0, 1.0]))
    assert averaged(one, other, 0.5).mix.tolist() == [15.0, 3.0]
    np.testing.assert_array_equal(one.head.weight.detach(), other.head.weight.detach())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "random"}, r"cross_large\.start must be one of pretrained, teacher"),
        ({"keep_share": 1.0}, r"cross_large\.keep_share must be at least 0 and below 1"),
        ({"apart": 2}, r"cross_large\.apart must be at least 0 and below its 2 layers"),
        ({"synthetic": 1.5}, r"cross_large\.synthetic must be a share"),
        (
            {"teacher_losses": {"squared": 1.0}},
            r"teacher_losses gives weights to margin and listwise",
        ),
        ({"teacher_losses": {"margin": 0.0}}, r"one of them above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    workplace: Workplace, change: dict[str, object], message: str
) -> None:
    tables = asdict(workplace.recipe)
    tables["cross_large"] |= change
    with pytest.raises(RecipeError, match=message):
        checked_recipe(tables)


@pytest.mark.parametrize("start", ["pretrained", "teacher"])
def test_a_student_with_a_head_alone_learns_its_score_without_late_interaction(
    workplace: Workplace, run: Path, start: str
) -> None:
    settings = replace(large(workplace.recipe), start=start, score="head", epochs=1, keep_share=0.0)
    recipe = replace(workplace.recipe, cross_small=None, cross_large=settings)
    distil(recipe, run)
    model = load_cross(run / "cross_large.pt")
    assert torch.count_nonzero(model.mix) == 0
    assert torch.count_nonzero(model.head.weight) > 0
    pieces = Pieces.of(recipe, load_prepared(run))
    rows = list(pieces.sets["shop"].values())[:6]
    scores = score_products(model, rows[0][:3], rows, pieces.specials)
    assert len(set(scores)) > 1
    before = torch.tensor(scores)
    with torch.no_grad():
        model.head.weight.zero_()
    after = torch.tensor(score_products(model, rows[0][:3], rows, pieces.specials))
    assert torch.allclose(after, model.head.bias.expand(6), atol=1e-6) and not torch.allclose(before, after)
