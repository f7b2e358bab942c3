"""A recipe is refused with the key that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.v1 import catalogue_pb2
from tests.training.tiny import RECIPE
from training.data.folds import fold_of
from training.data.text import product_text
from training.recipe import DEFAULT_RECIPE, RecipeError, deadline_ms, load_recipe, recipe_tables


def test_the_shipped_recipe_is_valid() -> None:
    recipe = load_recipe(DEFAULT_RECIPE)
    assert {one.name for one in recipe.judged()} == {"esci", "chorus"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("folds = 2", "folds = 1", "folds must be at least 2"),
        ("folds = 2", 'folds = "two"', "folds must be a int"),
        ("folds = 2", "", "folds is missing"),
        ("folds = 2", "folds = 2\nfold = 3", "fold is not a setting"),
        ("leaves = 4", "leaves = 4\nleafs = 4", r"rank\.leafs is not a setting"),
        ('role = "judged"', 'role = "best"', r"must have the role 'judged'"),
        ("late_depths = [10, 50]", "late_depths = 10", r"plans\.late_depths must be a list"),
        ("late_depths = [10, 50]", "late_depths = [10, 0.5]", r"plans\.late_depths\[1\]"),
        ("seed = 5", "seed = ", "line"),
        ("[rank]", "[search]\ntrials = 2\nfolds = 3\n[rank]", r"search\.folds must be between 1 and folds"),
        ("[rank]", "[search]\ntrials = 2\ninner = [0.0]\n[rank]", r"search\.inner must be shares above 0"),
        (
            "[rank]",
            "[search]\ntrials = 2\nlearning_rates = [1.0]\n[rank]",
            r"search\.learning_rates must be two",
        ),
        ("[rank]", "[search]\ntrials = 2\nusable_share = 1.5\n[rank]", r"search\.usable_share must be"),
        ("[cross_small]", "[cross_small]\ninner = 2.0", r"cross_small\.inner must be a share"),
        (
            "[cross_small]",
            '[cross_small]\nscore = "late"',
            r"cross_small\.score must be one of meeting, head",
        ),
        ("[plans]", '[plans]\nadmit = ["late"]', r"plans\.admit: no cross-encoder 'late' is trained here"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(pretrained="x").replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_recipe_may_be_json_and_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(pretrained="x"))
    recipe = load_recipe(tmp_path / "recipe.toml")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_tables(recipe)))
    assert load_recipe(path) == recipe
    path.write_text("[1, 2]")
    with pytest.raises(RecipeError, match="an object of tables, not a list"):
        load_recipe(path)
    path.write_text('{"name": ')
    with pytest.raises(RecipeError, match=r"recipe\.json: Expecting value"):
        load_recipe(path)


@pytest.mark.parametrize(("text", "expected_ms"), [("50ms", 50.0), ("0.2s", 200.0), ("50", 50.0)])
def test_a_deadline_without_a_unit_is_in_milliseconds(text: str, expected_ms: float) -> None:
    assert deadline_ms(text) == expected_ms


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="absent"):
        load_recipe(tmp_path / "absent.toml")


def test_a_query_stays_in_its_fold_whatever_else_there_is() -> None:
    folds = [fold_of("shop", str(number), 3, 7) for number in range(300)]
    assert set(folds) == {0, 1, 2}
    assert folds == [fold_of("shop", str(number), 3, 7) for number in range(300)]
    assert min(folds.count(fold) for fold in range(3)) > 60
    assert [fold_of("shop", str(number), 3, 8) for number in range(300)] != folds


def test_product_text_follows_the_rule_of_the_bundle() -> None:
    product = catalogue_pb2.Product(
        title="Kettle",
        category=["Home", "Kitchen"],
        bullets=["Fast", "Quiet"],
        attributes={"size": "1 l", "colour": "red"},
    )
    assert product_text(product, ["title", "brand", "category"]) == "Kettle Home > Kitchen"
    assert product_text(product, ["bullets", "attributes"]) == "Fast. Quiet colour red, size 1 l"
    assert product_text(catalogue_pb2.Product(), ["title"]) == ""
    with pytest.raises(ValueError, match="no product field"):
        product_text(product, ["price"])
