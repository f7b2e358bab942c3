"""What retrieval teaches a student: its own order, without a label, and nothing of held-out queries."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import Workplace
from training.cross import Pieces, new_cross, score_products
from training.data.leakage import jaccard, words
from training.data.tables import DEV, TRAIN, JudgedQuery
from training.distil import distil, student_file, weak_file
from training.models.networks import CrossEncoder, load_cross
from training.prepare import Prepared, load_prepared
from training.recipe import PartRecipe, Recipe, RecipeError, StudentRecipe, UnlabelledRecipe, WeakRecipe
from training.weak import (
    MADE,
    Candidates,
    candidates_of,
    check_weak,
    made_queries,
    teach,
    teacher_scores,
    weak_groups,
)

SMALL = WeakRecipe(steps=20, group=8, queries=30, width=30, near=8, random_products=2, learning_rate=1e-3)


@pytest.fixture
def run(workplace: Workplace, tmp_path: Path) -> Path:
    shutil.copytree(workplace.run / "prepared", tmp_path / "run" / "prepared")
    shutil.copy(workplace.run / "encoder.pt", tmp_path / "run" / "encoder.pt")
    shutil.copytree(workplace.run / "catalogues", tmp_path / "run" / "catalogues", dirs_exist_ok=True)
    return tmp_path / "run"


@pytest.fixture(scope="module", autouse=True)
def catalogues(workplace: Workplace) -> None:
    (workplace.run / "catalogues").mkdir(exist_ok=True)


def settings_of(workplace: Workplace) -> StudentRecipe:
    student = workplace.recipe.students()["cross_small"]
    return replace(student, start="weak", score="head", layers=[0, 1], pairs=0, epochs=0)


@pytest.fixture
def recipe(workplace: Workplace) -> Recipe:
    return replace(workplace.recipe, cross_small=settings_of(workplace), cross_large=None, weak=SMALL)


def agreement(model: CrossEncoder, recipe: Recipe, prepared: Prepared, found: list[Candidates]) -> float:
    """Mean correlation of the model's scores with the teacher's, over the candidates of each query."""
    pieces = Pieces.of(recipe, prepared)
    told = []
    for one, wanted in zip(found, teacher_scores(recipe, found), strict=True):
        scores = score_products(
            model, one.query, [pieces.sets[one.set][key] for key in one.keys], pieces.specials
        )
        if np.std(scores) > 1e-9 and np.std(wanted) > 1e-9:
            told.append(np.corrcoef(scores, wanted)[0, 1])
    return float(np.mean(told))


def test_a_student_comes_to_order_products_as_retrieval_does(recipe: Recipe, run: Path) -> None:
    prepared = load_prepared(run)
    assert recipe.cross_small is not None
    # Twelve queries that a model of random weights can learn by heart.
    few = replace(SMALL, steps=250, queries=0, synthetic=0.0, head_learning_rate=1e-2)
    recipe = replace(recipe, weak=few)
    [path] = teach(recipe, run)
    assert path == weak_file(run, recipe.cross_small)
    found = candidates_of(recipe, run, prepared)
    torch.manual_seed(0)
    untrained = new_cross(recipe, recipe.cross_small, prepared)
    torch.nn.init.normal_(untrained.head.weight)
    assert agreement(load_cross(path), recipe, prepared, found) > 0.4
    assert abs(agreement(untrained, recipe, prepared, found)) < 0.4


def test_students_of_every_fold_start_from_what_retrieval_taught(recipe: Recipe, run: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run `python -m training\.weak` first"):
        distil(recipe, run)
    assert recipe.cross_small is not None
    teach(recipe, run)
    distil(recipe, run)
    taught = load_cross(weak_file(run, recipe.cross_small)).state_dict()
    for fold in (0, 1, None):
        found = load_cross(student_file(run, "cross_small", fold)).state_dict()
        for name, value in found.items():
            torch.testing.assert_close(value, taught[name])


def test_what_labels_moved_is_drawn_back_to_what_retrieval_taught(recipe: Recipe, run: Path) -> None:
    assert recipe.cross_small is not None
    teach(recipe, run)
    weights = {}
    for share in (0.0, 0.5):
        student = replace(recipe.cross_small, epochs=1, keep_share=share)
        distil(replace(recipe, cross_small=student), run)
        weights[share] = load_cross(student_file(run, "cross_small", None)).head.weight
        for path in (*run.glob("distil/*.pt"), student_file(run, "cross_small", None)):
            path.unlink()
    start = load_cross(weak_file(run, recipe.cross_small)).head.weight
    assert not torch.allclose(weights[0.0], start)
    torch.testing.assert_close(weights[0.5], 0.5 * (weights[0.0] + start))


def test_no_label_has_a_part_in_it(recipe: Recipe, run: Path) -> None:
    prepared = load_prepared(run)
    pieces = Pieces.of(recipe, prepared)
    unlabelled = replace(prepared, queries=[replace(one, gains={}) for one in prepared.queries])
    steps = [
        weak_groups(recipe, candidates_of(recipe, run, of), pieces, np.random.default_rng(1))
        for of in (prepared, unlabelled)
    ]
    assert steps[0] == steps[1] and len(steps[0]) == SMALL.steps


def test_only_training_queries_and_made_ones_are_asked(recipe: Recipe, run: Path) -> None:
    prepared = load_prepared(run)
    asked = {tuple(one.query) for one in candidates_of(recipe, run, prepared)}
    held_out = [one.text for one in prepared.queries if one.split != TRAIN]
    assert held_out
    for text in held_out:
        ids = prepared.tokenizer.encode(text, add_special_tokens=False).ids
        assert tuple(ids[: recipe.text.query_tokens_max]) not in asked


def test_a_made_query_that_a_held_out_one_asks_is_left_out(recipe: Recipe, run: Path) -> None:
    prepared = load_prepared(run)
    first = made_queries(recipe, prepared, np.random.default_rng(3))
    assert first and {one.set for one in first} == {MADE} and not any(one.gains for one in first)
    taken = first[0].text
    held_out = JudgedQuery("shop", "held-out", DEV, f"  {taken.upper()} ", {})
    again = made_queries(
        recipe, replace(prepared, queries=[*prepared.queries, held_out]), np.random.default_rng(3)
    )
    limit = recipe.splits.near_duplicate
    assert all(jaccard(words(one.text), words(taken)) < limit for one in again) and again


def test_a_product_that_was_not_found_is_worse_than_any_that_was(recipe: Recipe, run: Path) -> None:
    prepared = load_prepared(run)
    found = candidates_of(recipe, run, prepared)
    pieces = Pieces.of(recipe, prepared)
    seen = 0
    for group in weak_groups(recipe, found, pieces, np.random.default_rng(2)):
        assert group.teacher is not None and len(group.teacher) == len(group.products) >= 2
        assert len(group.products) <= SMALL.group + SMALL.random_products
        lowest = min(group.teacher)
        beside = [one for one in group.teacher if one == lowest]
        seen += len(beside) > 1
    assert seen > 0


def test_each_signal_counts_by_its_weight_in_deviations(recipe: Recipe) -> None:
    values = np.array([[0.0, 100.0], [1.0, 300.0], [2.0, 200.0]])
    found = [Candidates([5], False, "shop", ["a", "b", "c"], values)]
    weighted = replace(recipe, weak=replace(SMALL, signals={"dense": 1.0, "late": 3.0}))
    [scores] = teacher_scores(weighted, found)
    spread = values.std(axis=0)
    np.testing.assert_allclose(scores, values[:, 0] / spread[0] + 3.0 * values[:, 1] / spread[1])
    with pytest.raises(ValueError, match="retrieval found nothing"):
        teacher_scores(weighted, [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"signals": {}}, "weak.signals must name at least one signal"),
        ({"signals": {"late": 0.0}}, "weight above 0"),
        ({"steps": 0}, "weak.steps must be at least 1"),
        ({"group": 1}, "weak.group must be at least 2"),
        ({"width": 1}, "weak.width must be at least 2"),
        ({"near": 0}, "weak.near must be at least 1"),
        ({"queries": -1}, "weak.queries must be at least 0"),
        ({"synthetic": 1.5}, "weak.synthetic must be a share"),
        ({"queries": 0}, "set weak.queries above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(recipe: Recipe, changed: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_weak(replace(recipe, weak=replace(SMALL, **changed)))


def test_a_signal_that_the_engine_does_not_know_is_named(recipe: Recipe, run: Path) -> None:
    wrong = replace(recipe, weak=replace(SMALL, signals={"applause": 1.0}))
    with pytest.raises(RecipeError, match="no signal 'applause'; it has bm25"):
        teach(wrong, run)


def test_an_encoder_that_saw_labels_teaches_nobody(recipe: Recipe, run: Path) -> None:
    torch.save({"saw_labels": True}, run / "adapted.pt")
    labelled = replace(recipe, unlabelled=UnlabelledRecipe(labels=PartRecipe(steps=5)))
    with pytest.raises(RecipeError, match="must not have seen labels"):
        teach(labelled, run)


def test_a_trained_one_is_kept(recipe: Recipe, run: Path) -> None:
    [path] = teach(recipe, run)
    before = path.stat().st_mtime_ns
    assert teach(recipe, run) == [path] and path.stat().st_mtime_ns == before
