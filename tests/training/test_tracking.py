"""Curves are always written, go where the recipe says, and stand there once."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from training.recipe import RecipeError, TrackingRecipe
from training.tracking import CURVES, open_tracker


def points(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / CURVES).read_text().splitlines()]


def test_every_point_is_a_line(tmp_path: Path) -> None:
    with open_tracker(TrackingRecipe(to=[]), tmp_path / "run", "teacher/fold0-seed0") as tracker:
        tracker.write(10, "train", "loss", 0.5)
        tracker.write(10, "dev", "ndcg10", 0.75)
    assert points(tmp_path / "run") == [
        {"step": 10, "split": "train", "name": "teacher/fold0-seed0/loss", "value": 0.5},
        {"step": 10, "split": "dev", "name": "teacher/fold0-seed0/ndcg10", "value": 0.75},
    ]


def test_a_run_that_goes_on_drops_its_own_later_points_and_a_torn_line(tmp_path: Path) -> None:
    for name in ("fold0", "fold1"):
        with open_tracker(TrackingRecipe(to=[]), tmp_path, name) as tracker:
            for step in (10, 20, 30):
                tracker.write(step, "train", "loss", 1.0 / step)
    with (tmp_path / CURVES).open("a") as file:
        file.write('{"step": 40, "spl')
    with open_tracker(TrackingRecipe(to=[]), tmp_path, "fold1") as tracker:
        tracker.rewind(20)
        tracker.write(30, "train", "loss", 0.25)
    found = [(one["name"], one["step"]) for one in points(tmp_path)]
    assert found == [(f"{name}/loss", step) for name in ("fold0", "fold1") for step in (10, 20, 30)]
    assert points(tmp_path)[-1]["value"] == 0.25


def test_tensorboard_gets_the_same_points(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_tracker(TrackingRecipe(), tmp_path, "teacher/fold0") as tracker:
        tracker.write(10, "train", "loss", 0.5)
        tracker.write(20, "train", "loss", 0.25)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "teacher" / "fold0"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss/train")] == [(10, 0.5), (20, 0.25)]


def test_tensorboard_is_left_out_with_a_note_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    notes: list[str] = []
    with open_tracker(TrackingRecipe(), tmp_path, "fold0", note=notes.append) as tracker:
        tracker.write(1, "train", "loss", 2.0)
    assert len(points(tmp_path)) == 1
    assert len(notes) == 1 and "pip install tensorboard" in notes[0]


@pytest.mark.parametrize("place", ["wandb", "mlflow"])
def test_a_place_that_was_asked_for_must_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setitem(sys.modules, place, None)
    with pytest.raises(RecipeError, match=f"the package {place} is not installed.*pip install {place}"):
        open_tracker(TrackingRecipe(to=[place]), tmp_path, "fold0")


def test_an_unknown_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'tensorbored' is not one of tensorboard, wandb, mlflow"):
        open_tracker(TrackingRecipe(to=["tensorbored"]), tmp_path, "fold0")


def test_weights_and_biases_is_offline_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            calls.append(("define", (name, step_metric)))

        def log(self, values: dict[str, float]) -> None:
            calls.append(("log", values))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**settings: Any) -> Run:
        calls.append(("init", settings))
        return Run()

    fake = types.ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with open_tracker(TrackingRecipe(to=["wandb"], project="shop"), tmp_path, "fold0") as tracker:
        tracker.write(7, "dev", "ndcg10", 0.5)
    assert calls[0][1]["mode"] == "offline"
    assert (calls[0][1]["project"], calls[0][1]["name"], calls[0][1]["dir"]) == (
        "shop",
        "fold0",
        str(tmp_path),
    )
    assert calls[-2:] == [("log", {"ndcg10/dev": 0.5, "step": 7}), ("finish", None)]
    monkeypatch.setenv("WANDB_MODE", "online")
    open_tracker(TrackingRecipe(to=["wandb"]), tmp_path, "fold0").close()
    assert [one["mode"] for what, one in calls if what == "init"] == ["offline", "online"]


def test_mlflow_writes_below_the_run_folder_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    fake = types.ModuleType("mlflow")
    found = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    for name, result in (("set_tracking_uri", None), ("set_experiment", None), ("end_run", None)):
        setattr(fake, name, lambda *given, name=name, result=result: calls.append((name, *given)))
    fake.start_run = lambda **given: found  # type: ignore[attr-defined]
    fake.log_metric = lambda *given, **more: calls.append(("log", *given, more))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with open_tracker(TrackingRecipe(to=["mlflow"]), tmp_path, "fold0") as tracker:
        tracker.write(7, "dev", "ndcg10", 0.5)
    assert calls == [
        ("set_tracking_uri", f"sqlite:///{tmp_path.resolve()}/mlflow.db"),
        ("set_experiment", "muster"),
        ("log", "ndcg10/dev", 0.5, {"step": 7, "run_id": "r1"}),
        ("end_run",),
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:elsewhere")
    open_tracker(TrackingRecipe(to=["mlflow"]), tmp_path, "fold0").close()
    assert sum(call[0] == "set_tracking_uri" for call in calls) == 1
