"""The search for a deadline, from the teachers to the recipe of the stages after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from matplotlib import image

from tests.training.conftest import Workplace
from training import trials as trials_module
from training.augment import augment
from training.distil import Sources, distil, student, student_file
from training.models.networks import CrossEncoder, load_cross
from training.prune import pruned_file
from training.quality import JudgedList, Quality
from training.recipe import AugmentRecipe, Recipe, RecipeError, SearchRecipe, load_recipe, recipe_tables
from training.search import main, search
from training.teacher import train_teachers

SEARCH = SearchRecipe(
    trials=4, layers=[1], inner=[0.5], steps=4, pairs=16, learning_rates=[1e-4, 1e-3], folds=2
)


class Killed(BaseException):
    """What Optuna does not catch, as it would not a SIGKILL."""


@pytest.fixture(scope="module")
def begun(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A run folder that lacks nothing but the search."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("search") / "run"
    for name in ("prepared", "teacher"):
        shutil.copytree(workplace.run / name, run / name)
    shutil.copy2(workplace.run / "encoder.pt", run / "encoder.pt")
    recipe = replace(workplace.recipe, search=SEARCH, augment=AugmentRecipe(word=0.2, product=0.3))
    augment(recipe, run, note=lambda _: None)
    train_teachers(recipe, run)
    return recipe, run


@pytest.fixture(scope="module")
def searched(
    begun: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path, dict[str, Any]]:
    run = copied(begun[1], tmp_path_factory.mktemp("searched"))
    return begun[0], run, search(begun[0], run, 50.0)


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "run")
    return folder / "run"


def drawn(run: Path) -> list[Mapping[str, Any]]:
    return [one["params"] for one in json.loads((run / "search" / "report.json").read_text())["trials"]]


def test_the_whole_teacher_comes_first_and_the_smallest_student_second(
    searched: tuple[Recipe, Path, dict[str, Any]],
) -> None:
    _, run, report = searched
    assert len(report["trials"]) == SEARCH.trials == report["finished"] + report["ended_early"]
    assert drawn(run)[:2] == [
        {"layers": "all", "inner": 1.0, "training": "none", "keep_share": 0.25},
        {"layers": "1 spread", "inner": 0.5, "training": "none", "keep_share": 0.0},
    ]
    for one in report["trials"][2:]:
        assert one["params"]["inner"] in (1.0, 0.5)
        assert 1e-4 <= one["params"].get("learning_rate", 1e-4) <= 1e-3


def test_cost_grows_with_the_depth_and_a_smaller_student_costs_less(
    searched: tuple[Recipe, Path, dict[str, Any]],
) -> None:
    report = searched[2]
    alone, whole, deeper, small, *_ = report["points"]
    assert alone["ms"] == report["query_ms"] and alone["over_cheap"]["ndcg10"] == 0.0
    assert [one["depth"] for one in (whole, deeper, small)] == [4, 8, 4]
    assert deeper["ms"] - alone["ms"] == pytest.approx(2 * (whole["ms"] - alone["ms"]), abs=0.01)
    assert whole["ms"] - alone["ms"] == pytest.approx(4 * report["teacher_pair_ms"], abs=0.01)
    assert small["bundle_mib"] < whole["bundle_mib"]
    for point in report["points"]:
        assert point["low"] <= point["ndcg10"] <= point["high"]
    costs = [report["points"][at]["ms"] for at in report["front"]]
    assert costs == sorted(costs)


def test_the_picture_is_a_png_that_can_be_looked_at(searched: tuple[Recipe, Path, dict[str, Any]]) -> None:
    height, width, _ = image.imread(searched[1] / "search" / "pareto.png").shape
    assert 400 <= height <= 1500 and 800 <= width <= 2400


def test_the_recipe_that_is_written_has_the_chosen_student_alone(
    searched: tuple[Recipe, Path, dict[str, Any]],
) -> None:
    recipe, run, report = searched
    made = load_recipe(run / "search" / "recipe.json")
    assert replace(made, cross_small=recipe.cross_small, cross_large=recipe.cross_large) == recipe
    chosen = report["choice"]["point"]
    assert len(made.students()) == (0 if chosen is None else 1)
    assert report["choice"]["reasons"][0].startswith("Of the deadline of 50 ms, 70% is planned with")


def test_another_deadline_measures_nothing_again(
    searched: tuple[Recipe, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run, report = searched
    monkeypatch.setattr(trials_module, "student", None)
    again = search(recipe, copied(run, tmp_path), 1000.0)
    assert again["trials"] == report["trials"] and again["points"] == report["points"]
    assert again["usable_ms"] > report["usable_ms"]


def test_a_killed_search_goes_on_with_the_same_trials(
    begun: tuple[Recipe, Path],
    searched: tuple[Recipe, Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, run = begun[0], copied(begun[1], tmp_path)
    calls = [0]

    def dies(*arguments: Any, **settings: Any) -> CrossEncoder:
        calls[0] += 1
        if calls[0] in (2, 8):
            raise Killed
        return student(*arguments, **settings)

    monkeypatch.setattr(trials_module, "student", dies)
    for _ in range(2):
        with pytest.raises(Killed):
            search(recipe, run, 50.0)
    report = search(recipe, run, 50.0)
    assert drawn(run) == drawn(searched[1])
    assert len(report["trials"]) == SEARCH.trials
    worth = {one["name"]: one.get("ndcg10") for one in searched[2]["trials"]}
    # A trial that was ended early in one of the two is only known in the other.
    for one in report["trials"]:
        if "ndcg10" in one and worth[one["name"]] is not None:
            assert one["ndcg10"] == worth[one["name"]]
    states = [trial.state.name for trial in studied(run)]
    assert states.count("FAIL") == 2 and "RUNNING" not in states and "WAITING" not in states


def studied(run: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{run / 'search' / 'study.db'}")
    try:
        return optuna.load_study(study_name="tiny", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_a_trial_that_is_beaten_is_ended_after_a_fold(
    begun: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = begun[0], copied(begun[1], tmp_path)
    folds: list[tuple[str, int]] = []

    def noted(sources: Sources, settings: Any, fold: int, **named: Any) -> CrossEncoder:
        folds.append((named["name"].split(":")[0], fold))
        return student(sources, settings, fold, **named)

    def made_up(lists: Sequence[JudgedList], *rest: Any) -> dict[int, Quality]:
        worth = 0.9 if folds[-1][0] == "student 1" else 0.5
        return {depth: {"shop": {one.query_id: worth for one in lists}} for depth in rest[-1]}

    monkeypatch.setattr(trials_module, "student", noted)
    monkeypatch.setattr(trials_module, "reranked_quality", made_up)
    monkeypatch.setattr(trials_module.Trials, "_cost", lambda *_: 1.0)
    report = search(replace(recipe, search=replace(SEARCH, trials=2)), run, 50.0)
    assert folds == [("student 1", 0), ("student 1", 1), ("student 2", 0)]
    assert [one["state"] for one in report["trials"]] == ["finished", "ended early"]
    assert "better on the same queries and no dearer" in report["trials"][1]["why"]
    assert report["ended_early"] == 1 and {point["trial"] for point in report["points"]} == {None, 0}


def test_what_was_made_of_another_student_before_is_removed(
    searched: tuple[Recipe, Path, dict[str, Any]], tmp_path: Path
) -> None:
    recipe, run = searched[0], copied(searched[1], tmp_path)
    made = load_recipe(run / "search" / "recipe.json")
    stale = [student_file(run, "cross_small", fold) for fold in (None, 0)]
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of another student")
    search(recipe, run, 50.0)
    assert all(path.is_file() for path in stale)
    assert recipe.cross_small is not None
    other = replace(made, cross_small=replace(recipe.cross_small, layers=[1]), cross_large=None)
    (run / "search" / "recipe.json").write_text(json.dumps(recipe_tables(other)))
    kept = pruned_file(run, "half")
    kept.parent.mkdir()
    kept.write_text("of the encoder")
    search(recipe, run, 50.0)
    assert not any(path.exists() for path in stale) and kept.is_file()
    assert load_recipe(run / "search" / "recipe.json") == made


def test_a_chosen_student_is_distilled_as_it_was_tried(begun: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = begun[0], copied(begun[1], tmp_path)
    params = {"layers": "first 1", "inner": 0.5, "training": "labels and edits", "keep_share": 0.3}
    settings = trials_module.settings_of(recipe, params, 2)
    distil(replace(recipe, cross_small=settings), run)
    for fold in (None, 0, 1):
        model = load_cross(student_file(run, "cross_small", fold))
        assert model.stack.shape.layers == 1 and model.stack.shape.inner_by_layer == (64,)


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("augmented", "augment"),
        ("teacher/whole-seed0", "teacher"),
        ("encoder.pt", "encoder"),
        ("prepared", "prepare"),
    ],
)
def test_a_stage_that_has_not_run_is_named(
    begun: tuple[Recipe, Path], tmp_path: Path, missing: str, stage: str
) -> None:
    run = copied(begun[1], tmp_path)
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"run `python -m training\.{stage}` first"):
        search(begun[0], run, 50.0)


def test_a_study_of_another_recipe_is_refused(
    searched: tuple[Recipe, Path, dict[str, Any]], tmp_path: Path
) -> None:
    recipe, run = searched[0], copied(searched[1], tmp_path)
    with pytest.raises(RecipeError, match=r"of another recipe, teacher or encoder: remove .*search"):
        search(replace(recipe, search=replace(SEARCH, steps=5)), run, 50.0)
    search(replace(recipe, search=replace(SEARCH, trials=3, usable_share=0.5)), run, 50.0)


def test_a_deadline_that_the_query_alone_fills_is_refused_with_the_least(
    searched: tuple[Recipe, Path, dict[str, Any]],
) -> None:
    with pytest.raises(RecipeError, match=r"encoding a query takes .* ms here\. It must be above [\d.]+ ms"):
        search(searched[0], searched[1], 0.001)


def test_bad_input_ends_with_code_2(
    begun: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    common = ["--recipe", str(recipe), "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    recipe.write_text(json.dumps(recipe_tables(replace(begun[0], search=SearchRecipe()))))
    assert main([*common, "--deadline", "50ms"]) == 2
    assert "search.trials is 0" in capsys.readouterr().err
    recipe.write_text(json.dumps(recipe_tables(begun[0])))
    assert main(common) == 2
    assert "name a --deadline, like 50ms" in capsys.readouterr().err
    assert main([*common, "--deadline", "0.2s"]) == 2
    assert "run `python -m training." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, "--deadline", "soon"])
    assert "'soon' is not a duration above 0" in capsys.readouterr().err
