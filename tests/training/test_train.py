"""One command from the data to a bundle, taken up again where it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muster.bundle import read_bundle
from tests.training.tiny import write_workplace
from training.recipe import RecipeError
from training.train import RECORD, STAGES, Order, TrainingFailed, main, train

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
    assert list(record["stages"]) == list(STAGES)
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
