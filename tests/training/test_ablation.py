"""The ablation changes one thing at a time, repeats nothing, and warns of what chance may explain."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Workplace
from tests.training.tiny import RECIPE
from training.ablation import ablate, inside_noise, main, student_recipe, switched, table, with_shares
from training.cross import train_cross
from training.measure import Estimate
from training.recipe import AUGMENT_KINDS, Recipe, RecipeError

KINDS = ("typo", "price")
SWITCH = "cross_small.bce_weight=1"


@pytest.fixture(scope="module")
def run(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "prepared").symlink_to(workplace.run / "prepared")
    return folder


def ablated(recipe: Recipe, run: Path, **settings: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    return ablate(
        recipe,
        run,
        **{
            "kinds": KINDS,
            "switches": [SWITCH],
            "share": 0.2,
            "seeds": 2,
            "layers": 1,
            "minutes": 1.0,
            "note": lambda _: None,
            **settings,
        },
    )


@pytest.fixture(scope="module")
def report(workplace: Workplace, run: Path) -> dict[str, Any]:
    return ablated(workplace.recipe, run)


def test_every_change_is_measured_against_the_same_base(report: dict[str, Any], run: Path) -> None:
    assert json.loads((run / "ablation" / "report.json").read_text()) == report
    assert [row["name"] for row in report["variants"]] == [SWITCH, *KINDS]
    assert 0.0 < report["base"]["clean"] <= 1.0
    for row in report["variants"]:
        if "unseen" in row:
            continue
        for condition in ("clean", "typos"):
            one = row[condition]
            assert one["low"] <= one["difference"] <= one["high"]
            assert one["ndcg10"] - report["base"][condition] == pytest.approx(one["difference"], abs=2e-4)
            assert len(one["seeds"]) == 2
            assert sum(one["seeds"]) / 2 == pytest.approx(one["difference"], abs=2e-4)


def test_what_no_model_can_see_is_not_trained(report: dict[str, Any]) -> None:
    typo, price = report["variants"][1:]
    assert typo["pairs"] > 0 and "clean" in typo
    assert price["pairs"] > 0 and "clean" not in price
    assert "reads" in price["unseen"]


def test_each_fold_and_seed_is_one_run_and_none_is_repeated(
    workplace: Workplace, report: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((run / "ablation" / "runs").iterdir())
    # Base, switch and typo; two folds; two seeds.
    assert len(files) == 3 * 2 * 2
    assert {json.loads(file.read_text())["variant"] for file in files} == {"base", SWITCH, "typo"}

    def no_more(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr("training.ablation.train_cross", no_more)
    assert ablated(workplace.recipe, run) == report


def test_another_share_is_another_run(
    workplace: Workplace,
    report: dict[str, Any],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []

    def seen(*arguments: Any, name: str, **settings: Any) -> Any:
        trained.append(name.split(",")[0])
        return train_cross(*arguments, name=name, **settings)

    monkeypatch.setattr("training.ablation.train_cross", seen)
    (tmp_path / "prepared").symlink_to(workplace.run / "prepared")
    shutil.copytree(run / "ablation" / "runs", tmp_path / "ablation" / "runs")
    assert ablated(workplace.recipe, tmp_path, share=0.1)["base"] == report["base"]
    assert trained == ["typo"] * 4


def test_the_table_warns_of_differences_inside_the_noise(report: dict[str, Any], run: Path) -> None:
    text = table(report)
    assert (run / "ablation" / "table.txt").read_text() == text
    lines = text.splitlines()
    assert len(lines) == 1 + 1 + len(report["variants"]) + 1
    for row, line in zip(report["variants"], lines[2:], strict=False):
        assert line.startswith(row["name"])
        if "unseen" not in row:
            noisy = row["clean"]["inside_noise"] or row["typos"]["inside_noise"]
            assert ("inside the noise" in line) is noisy
    assert "stopped after" not in text
    assert "3 runs stopped after 1 minutes" in table(report | {"stopped_by_time": 3})


@pytest.mark.parametrize(
    ("low", "high", "seeds", "inside"),
    [
        (0.01, 0.03, [0.02, 0.02], False),
        (-0.03, -0.01, [-0.01, -0.03], False),
        (-0.01, 0.03, [0.01, 0.01], True),
        (0.01, 0.03, [0.05, -0.01], True),
    ],
)
def test_a_difference_counts_where_queries_and_seeds_agree(
    low: float, high: float, seeds: list[float], inside: bool
) -> None:
    assert inside_noise(Estimate((low + high) / 2, low, high), seeds) is inside


def test_a_switch_changes_one_setting(workplace: Workplace) -> None:
    base = student_recipe(workplace.recipe, layers=1, minutes=1.0)
    changed = switched(base, "cross_small.learning_rate = 0.5")
    assert changed == replace(base, cross_small=replace(base.students()["cross_small"], learning_rate=0.5))
    assert switched(base, 'text.cross_fields=["title"]').text.cross_fields == ["title"]
    assert switched(base, "cross_small.precision=bf16").students()["cross_small"].precision == "bf16"


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ("cross_small.bce_weight", "section.key=value"),
        ("cross_small.colour=1", "colour is not a setting"),
        ("cross_small.bce_weight.much=1", "is not a setting"),
        ("cross_small.bce_weight=a lot", r"cross_small\.bce_weight must be a float"),
        ("cross_small.pairs=64", "does not reach a student"),
        ("rank.trees=5", "does not reach a student"),
    ],
)
def test_a_switch_that_cannot_be_is_named(workplace: Workplace, switch: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        switched(workplace.recipe, switch)


def test_shares_come_from_the_recipe_where_it_has_them(workplace: Workplace) -> None:
    recipe = replace(workplace.recipe, augment=replace(workplace.recipe.augment, typo=0.3, brand=0.2))
    shares = with_shares(recipe, ["typo", "word"], None).augment.shares()
    assert {kind: share for kind, share in shares.items() if share} == {"typo": 0.3, "word": 0.05}
    assert set(with_shares(recipe, AUGMENT_KINDS, 0.1).augment.shares().values()) == {0.1}
    with pytest.raises(RecipeError, match="'synonym' is not one of"):
        with_shares(recipe, ["synonym"], None)
    with pytest.raises(RecipeError, match="--share"):
        with_shares(recipe, ["typo"], -0.1)


def test_the_student_is_the_first_layers_on_labels_alone(workplace: Workplace) -> None:
    student = student_recipe(workplace.recipe, layers=1, minutes=0.5).students()["cross_small"]
    assert student.layers == workplace.recipe.students()["cross_small"].layers[:1]
    assert (student.pairs, student.minutes_max) == (0, 0.5)
    with pytest.raises(RecipeError, match="layers"):
        student_recipe(workplace.recipe, layers=0, minutes=1.0)


def test_the_command_says_what_is_wrong(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(pretrained=workplace.recipe.pretrained))
    arguments = ["--recipe", str(recipe), "--run", str(tmp_path)]
    assert main([*arguments, "--kinds", "typo"]) == 2
    assert "training.prepare" in capsys.readouterr().err
    (tmp_path / "prepared").symlink_to(workplace.run / "prepared")
    assert main([*arguments, "--kinds", "synonym"]) == 2
    assert "'synonym'" in capsys.readouterr().err


def test_the_command_prints_the_table(
    workplace: Workplace,
    run: Path,
    report: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(pretrained=workplace.recipe.pretrained))
    arguments = ["--recipe", str(recipe), "--run", str(run), "--kinds", ",".join(KINDS), "--switch", SWITCH]
    arguments += ["--share", "0.2", "--seeds", "2", "--layers", "1", "--minutes", "1"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == table(report)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
