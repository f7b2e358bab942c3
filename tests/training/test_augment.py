"""The stage adds pairs whose labels are known, and nothing that a model must not see."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.conftest import Workplace
from tests.training.tiny import RECIPE
from training.augment import Augmented, augment, augmented_groups, edited_rows, load_augmented
from training.cross import Pieces
from training.data.edits import QUERY_KINDS
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import AUGMENT_KINDS, AugmentRecipe, Recipe, RecipeError, load_recipe
from training.teacher import training_queries

EVERYTHING: dict[str, Any] = dict.fromkeys(AUGMENT_KINDS, 0.2)


@pytest.fixture(scope="module")
def recipe(workplace: Workplace) -> Recipe:
    return replace(workplace.recipe, augment=AugmentRecipe(**EVERYTHING))


@pytest.fixture(scope="module")
def prepared(workplace: Workplace) -> Prepared:
    return load_prepared(workplace.run)


@pytest.fixture(scope="module")
def rows(workplace: Workplace, recipe: Recipe) -> list[Augmented]:
    augment(recipe, workplace.run, note=lambda _: None)
    return load_augmented(workplace.run)


def test_what_is_written_is_what_was_made(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    again, report = edited_rows(recipe, prepared, note=lambda _: None)
    assert again == rows
    assert json.loads((workplace.run / "augmented" / "report.json").read_text()) == report
    assert not list((workplace.run / "augmented").glob("*.part"))


def test_the_report_counts_each_kind_and_says_why_there_are_not_more(
    workplace: Workplace, rows: list[Augmented]
) -> None:
    report = json.loads((workplace.run / "augmented" / "report.json").read_text())
    counts = Counter(row.kind for row in rows)
    assert report["rows"] == len(rows)
    assert report["off"] == []
    for kind, entry in report["kinds"].items():
        assert entry["rows"] == counts[kind]
        wanted, made = entry["sets"]["shop"]["wanted"], entry["sets"]["shop"]["made"]
        assert made <= wanted
        assert any(line.startswith(f"{kind}, shop: {made} of {wanted}") for line in report["short"]) is (
            made < wanted
        )
        assert len(entry["examples"]) == min(4, made)
    assert {"typo", "case", "product", "colour", "brand", "price", "back_off"} <= counts.keys()


def test_every_row_comes_from_a_labelled_training_pair(prepared: Prepared, rows: list[Augmented]) -> None:
    queries = {query.query_id: query for query in prepared.of("shop", "train")}
    for row in rows:
        assert row.query.strip()
        assert 0.0 <= row.target <= row.source_target <= 1.0
        assert row.as_product().product_id == row.product_id
        if row.kind == "back_off":
            assert row.source_query == "" and row.source_product in prepared.products["shop"]
            continue
        source = queries[row.source_query]
        assert row.source_product in source.gains
        assert (row.query == source.text) is (row.kind not in QUERY_KINDS)
        if row.kind != "product":
            assert row.product_id == row.source_product


def test_a_kind_that_is_switched_off_changes_nothing_of_the_others(
    recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    for kind in ("typo", "back_off"):
        settings = AugmentRecipe(**{**EVERYTHING, kind: 0.0})
        without, report = edited_rows(replace(recipe, augment=settings), prepared, note=lambda _: None)
        assert without == [row for row in rows if row.kind != kind]
        assert report["off"] == [kind]


def test_without_a_share_nothing_is_made(workplace: Workplace, prepared: Prepared, tmp_path: Path) -> None:
    found, report = edited_rows(workplace.recipe, prepared, note=lambda _: None)
    assert (found, report["rows"], report["off"]) == ([], 0, list(AUGMENT_KINDS))
    (tmp_path / "prepared").symlink_to(workplace.run / "prepared")
    augment(workplace.recipe, tmp_path, note=lambda _: None)
    assert load_augmented(tmp_path) == []


def test_another_seed_makes_other_rows(recipe: Recipe, prepared: Prepared, rows: list[Augmented]) -> None:
    assert edited_rows(replace(recipe, seed=recipe.seed + 1), prepared, note=lambda _: None)[0] != rows


def test_a_query_that_is_evaluated_is_never_made(
    recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    made = next(row for row in rows if row.kind == "back_off")
    evaluated = JudgedQuery("shop", "new", "dev", made.query.upper(), {})
    again, report = edited_rows(
        recipe, replace(prepared, queries=[*prepared.queries, evaluated]), note=lambda _: None
    )
    assert made.query not in {row.query for row in again}
    assert report["kinds"]["back_off"]["dropped_for_leakage"] > 0


def test_a_gain_without_a_target_is_named(recipe: Recipe, prepared: Prepared) -> None:
    data = [replace(one, targets={"9.0": 1.0}) for one in recipe.data]
    with pytest.raises(RecipeError, match=r"data\.shop\.targets says nothing of the gain"):
        edited_rows(replace(recipe, data=data), prepared, note=lambda _: None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("word = -0.1", r"augment\.word must be at least 0"),
        ("fallen = 1.5", r"augment\.fallen must be between 0 and 1"),
        ("neighbours = 0", r"augment\.neighbours must be at least 1"),
        ("synonyms = 0.1", r"augment\.synonyms is not a setting"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"{RECIPE.format(pretrained='x')}\n[augment]\n{line}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_run_that_was_not_augmented_names_the_stage_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.augment"):
        load_augmented(tmp_path)


def groups_of(
    workplace: Workplace,
    recipe: Recipe,
    prepared: Prepared,
    rows: list[Augmented],
    fold: int | None,
    kinds: tuple[str, ...] | None = None,
) -> list[tuple[str, int, list[float]]]:
    pieces = Pieces.of(recipe, prepared)
    found = augmented_groups(
        recipe,
        recipe.students()["cross_small"],
        prepared,
        pieces,
        training_queries(recipe, prepared, fold),
        rows,
        np.random.default_rng(3),
        kinds=kinds,
    )
    for group in found:
        assert len(group.products) == len(group.targets) <= recipe.students()["cross_small"].group + 2
        assert group.query and all(group.products)
        assert all(0.0 <= target <= 1.0 for target in group.targets)
    return [(prepared.tokenizer.decode(group.query), len(group.products), group.targets) for group in found]


def test_groups_stay_under_the_cap_and_are_the_same_for_a_seed(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    everything = groups_of(workplace, recipe, prepared, rows, None)
    assert everything and everything == groups_of(workplace, recipe, prepared, rows, None)
    capped = replace(recipe, augment=replace(recipe.augment, share_max=0.1))
    fewer = groups_of(workplace, capped, prepared, rows, None)
    labelled = sum(len(query.gains) for query in training_queries(recipe, prepared, None))
    assert 0 < len(fewer) < len(everything)
    extra = recipe.students()["cross_small"].random_products
    # A group is its edited pairs, the random products and, at most, as many sources.
    assert sum(max(1, (size - extra) // 2) for _, size, _ in fewer) <= 0.1 * labelled
    none = replace(recipe, augment=replace(recipe.augment, share_max=0.0))
    assert groups_of(workplace, none, prepared, rows, None) == []


def test_a_model_without_a_fold_sees_no_edit_of_that_fold(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    uncapped = replace(recipe, augment=replace(recipe.augment, share_max=10.0))
    for fold in range(recipe.folds):
        kept = {query.query_id for query in training_queries(recipe, prepared, fold)}
        of_fold = [row for row in rows if row.source_query and row.source_query not in kept]
        assert of_fold
        assert groups_of(workplace, uncapped, prepared, of_fold, fold) == []
        others = [row for row in rows if row.source_query in kept]
        assert groups_of(workplace, uncapped, prepared, others, fold)


def test_a_back_off_query_that_the_held_out_fold_asks_is_left_out(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    uncapped = replace(recipe, augment=replace(recipe.augment, share_max=10.0))
    held_out = next(
        query
        for query in prepared.of("shop", "train")
        if query.gains and query not in training_queries(recipe, prepared, 0)
    )
    made = [replace(row, query=held_out.text) for row in rows if row.kind == "back_off"]
    assert groups_of(workplace, uncapped, prepared, made, 0) == []
    assert groups_of(workplace, uncapped, prepared, made, 1)


def test_what_no_model_can_see_is_no_step(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    # The tokeniser lower-cases, and no text says a price.
    for kind in ("case", "price"):
        assert any(row.kind == kind for row in rows)
        assert groups_of(workplace, recipe, prepared, rows, None, (kind,)) == []
    assert groups_of(workplace, recipe, prepared, rows, None, ("typo",))


def test_an_edited_product_stands_beside_the_one_it_was_made_from(
    workplace: Workplace, recipe: Recipe, prepared: Prepared, rows: list[Augmented]
) -> None:
    uncapped = replace(recipe, augment=replace(recipe.augment, share_max=10.0))
    fallen = [row for row in rows if row.kind == "product"]
    assert fallen
    for _, _, targets in groups_of(workplace, uncapped, prepared, fallen, None):
        assert recipe.augment.fallen in targets
        assert any(target > recipe.augment.fallen for target in targets)
