"""One command from the data to a bundle, taken up again where it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.bundle import read_bundle
from tests.training.tiny import write_workplace
from training import train as train_module
from training.recipe import RecipeError, load_recipe, recipe_tables, searched_recipe
from training.train import RECORD, STAGES, Order, TrainingFailed, command, main, train

pytest.importorskip("rankcore._native", reason="the extension is not built: `make build`")


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    folder = tmp_path_factory.mktemp("train")
    write_workplace(folder, products=120, queries=24)
    return Order(folder / "recipe.toml", folder / "data", folder / "run", folder / "bundle")


def test_a_killed_run_goes_on_where_it_was_and_ends_with_a_bundle(order: Order) -> None:
    line = [sys.executable, "-m", "training.train", "--recipe", str(order.recipe), "--data", str(order.data)]
    line += ["--run", str(order.run), "--out", str(order.out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (order.run / RECORD).is_file():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended = set(json.loads((order.run / RECORD).read_text())["stages"])
    assert ended and "export" not in ended

    told: list[str] = []
    record = train(order, note=told.append)
    assert list(record["stages"]) == [stage for stage in STAGES if stage != "search"]
    assert {line.split()[1].removesuffix(":") for line in told if line.endswith("done before")} == ended
    assert all(stage["memory_max_mib"] > 0 for stage in record["stages"].values())
    assert read_bundle(order.out).plans()


def test_what_is_there_is_not_overwritten(order: Order) -> None:
    with pytest.raises(RecipeError, match="exists already"):
        train(Order(order.recipe, order.data, order.run, order.recipe.parent))


def test_a_run_folder_of_another_recipe_is_refused(order: Order, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(order.recipe.read_text().replace("seed = 5", "seed = 6"))
    run = tmp_path / "run"
    run.mkdir()
    (run / RECORD).write_text(json.dumps({"recipe_sha256": "0" * 64, "stages": {}}))
    with pytest.raises(RecipeError, match="was begun with another recipe"):
        train(Order(other, order.data, run, tmp_path / "bundle"))


def test_a_stage_that_fails_is_named_and_nothing_before_it_is_lost(order: Order, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(TrainingFailed, match=r"the stage prepare ended with code \d+"):
        train(Order(order.recipe, data, tmp_path / "run", tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_bad_input_ends_with_code_2(order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none")
    assert main(["--recipe", str(order.recipe), "--data", missing, "--out", str(tmp_path / "bundle")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["--recipe", missing, "--data", str(order.data), "--out", str(tmp_path / "bundle")]) == 2
    assert "No such file" in capsys.readouterr().err


def searching(order: Order, folder: Path, deadline_ms: float | None) -> Order:
    """The same order for a deadline, with a recipe that searches a student for it."""
    recipe = folder / "searching.toml"
    recipe.write_text(order.recipe.read_text() + "\n[search]\ntrials = 3\n")
    return Order(recipe, order.data, folder / "run", folder / "bundle", deadline_ms)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the stages, which are not run; the search alone leaves its recipe."""
    seen: list[list[str]] = []

    def only_noted(order: Order, stage: str) -> dict[str, Any]:
        seen.append(command(order, stage))
        if stage == "search":
            found = recipe_tables(replace(load_recipe(order.recipe), cross_small=None))
            searched_recipe(order.run).parent.mkdir(exist_ok=True)
            searched_recipe(order.run).write_text(json.dumps(found))
        return {"seconds": 0.0, "memory_max_mib": 1, "ended_unix_s": 0}

    monkeypatch.setattr(train_module, "_run", only_noted)
    return seen


def recipes(lines: list[list[str]]) -> dict[str, str]:
    """Stage to the name of the recipe that it was given."""
    return {line[2].removeprefix("training."): Path(line[4]).name for line in lines}


def test_stages_after_the_search_follow_the_recipe_that_it_wrote(
    order: Order, tmp_path: Path, lines: list[list[str]]
) -> None:
    record = train(searching(order, tmp_path, 50.0), note=lambda _: None)
    assert list(record["stages"]) == list(STAGES) and record["deadline_ms"] == 50.0
    given = recipes(lines)
    at = list(given).index("search")
    assert set(list(given.values())[: at + 1]) == {"searching.toml"}
    assert set(list(given.values())[at + 1 :]) == {"recipe.json"} and "distil" in list(given)[at + 1 :]
    assert next(line for line in lines if "training.search" in line)[-2:] == ["--deadline", "50ms"]


def test_another_deadline_runs_the_search_and_what_follows_again(
    order: Order, tmp_path: Path, lines: list[list[str]]
) -> None:
    train(searching(order, tmp_path, 50.0), note=lambda _: None)
    lines.clear()
    train(searching(order, tmp_path, 50.0), note=lambda _: None)
    assert list(recipes(lines)) == ["export"]
    lines.clear()
    record = train(searching(order, tmp_path, 0.2), note=lambda _: None)
    assert record["deadline_ms"] == 0.2 == json.loads((tmp_path / "run" / RECORD).read_text())["deadline_ms"]
    assert list(recipes(lines)) == [
        "export" if stage == "draft" else stage
        for stage in STAGES[STAGES.index("search") :]
        if stage != "export"
    ]
    assert lines[0][-2:] == ["--deadline", "0.2ms"]


def test_a_deadline_and_a_search_need_each_other(
    order: Order, tmp_path: Path, lines: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match=r"searches no cross-encoder for it; set search\.trials above 0"):
        train(replace(order, run=tmp_path / "run", out=tmp_path / "bundle", deadline_ms=50.0))
    with pytest.raises(RecipeError, match="name it with --deadline, like 50ms"):
        train(searching(order, tmp_path, None))
    with pytest.raises(SystemExit):
        main(["--data", str(order.data), "--out", str(tmp_path / "bundle"), "--deadline", "50 hours"])
    assert "'50 hours' is not a duration above 0" in capsys.readouterr().err
    assert lines == []


def test_a_recipe_that_searches_nothing_has_no_such_stage(
    order: Order, tmp_path: Path, lines: list[list[str]]
) -> None:
    train(replace(order, run=tmp_path / "run", out=tmp_path / "bundle"), note=lambda _: None)
    assert "search" not in recipes(lines) and set(recipes(lines).values()) == {"recipe.toml"}


def test_teachers_are_trained_only_where_something_learns_from_them(
    order: Order, tmp_path: Path, lines: list[list[str]]
) -> None:
    text = order.recipe.read_text().replace("pairs = 32", "pairs = 0").replace('start = "teacher"', "")
    recipe = tmp_path / "labels.toml"
    recipe.write_text(text)
    train(replace(order, recipe=recipe, run=tmp_path / "run", out=tmp_path / "bundle"), note=lambda _: None)
    assert "teacher" not in recipes(lines) and "distil" in recipes(lines)
    lines.clear()
    recipe.write_text(text.replace("[cross_small]", "[cross_small]\nstart = 'teacher'"))
    train(replace(order, recipe=recipe, run=tmp_path / "run2", out=tmp_path / "bundle"), note=lambda _: None)
    assert "teacher" in recipes(lines)


def test_the_data_folder_is_the_one_that_the_environment_names(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--recipe", str(order.recipe), "--run", str(tmp_path / "run")]
    monkeypatch.delenv("MUSTER_DATA", raising=False)
    assert main(line) == 2
    assert "with --data or MUSTER_DATA" in capsys.readouterr().err
    monkeypatch.setenv("MUSTER_DATA", str(tmp_path / "none"))
    assert main(line) == 2
    assert f"{tmp_path / 'none'} is not a folder" in capsys.readouterr().err
