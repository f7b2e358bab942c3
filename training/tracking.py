"""Tracking: the curves of a run, always in `curves.jsonl`, and in TensorBoard, Weights & Biases or MLflow.

Every line of `curves.jsonl` is {"step", "split", "name", "value"}. A run that goes on from a checkpoint first
drops what it wrote after it, so that no step stands there twice.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from training.recipe import RecipeError, TrackingRecipe

CURVES = "curves.jsonl"


class Sink(Protocol):
    """One place that curves go to."""

    def write(self, step: int, split: str, name: str, value: float) -> None:
        """Add one point."""

    def rewind(self, step: int) -> None:
        """Forget this run's points after a step, where the place can."""

    def close(self) -> None:
        """Write what is still held."""


class Tracker:
    """The curves of one training run, to every place the recipe names."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def write(self, step: int, split: str, name: str, value: float) -> None:
        """Add one point. step: updates made; split: "train", "dev" or "unseen"."""
        for sink in self._sinks:
            sink.write(step, split, name, value)

    def rewind(self, step: int) -> None:
        """Forget what was written after a step: the run goes on from there."""
        for sink in self._sinks:
            sink.rewind(step)

    def close(self) -> None:
        """Close every place."""
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tracker(
    settings: TrackingRecipe, run: Path, name: str, note: Callable[[str], None] = print
) -> Tracker:
    """Open the places for one training run.

    run: the run folder. name: of the training run in it ("teacher/fold0-seed0"), first part of each curve's
    name. note: is told where TensorBoard, which is only a default, is not installed.
    Raises: RecipeError for an unknown place, or one whose package is missing.
    """
    run.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = [JsonLines(run / CURVES, name)]
    for place in settings.to:
        if place not in _PLACES:
            raise RecipeError(f"tracking.to: {place!r} is not one of {', '.join(_PLACES)}")
        try:
            sinks.append(_PLACES[place](settings, run, name))
        except ModuleNotFoundError as error:
            missing = (
                f"tracking.to names {place!r}, and the package {_PACKAGES[place]} is not installed "
                f"({error}): `pip install {_PACKAGES[place]}`, or take it out of the list"
            )
            if place != "tensorboard":
                raise RecipeError(missing) from error
            note(f"{missing}; {CURVES} holds the same figures")
    return Tracker(sinks)


class JsonLines:
    """`curves.jsonl`: one point a line, names preceded by the training run's."""

    def __init__(self, path: Path, run_name: str) -> None:
        self._path = path
        self._prefix = f"{run_name}/"

    def write(self, step: int, split: str, name: str, value: float) -> None:
        point = {"step": step, "split": split, "name": self._prefix + name, "value": value}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def rewind(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = [
            line for line in self._path.read_text(encoding="utf-8").splitlines() if self._stays(line, step)
        ]
        part = self._path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.replace(self._path)

    def _stays(self, line: str, step: int) -> bool:
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            return False  # a kill cut the last line short
        return not str(point["name"]).startswith(self._prefix) or int(point["step"]) <= step

    def close(self) -> None:
        pass


class _TensorBoard:
    """Event files under `tensorboard/<name>`."""

    def __init__(self, settings: TrackingRecipe, run: Path, name: str) -> None:
        importlib.import_module("tensorboard")
        self._writer_of: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = run / "tensorboard" / name
        self._writer: Any = None
        self._purge: int | None = None

    def write(self, step: int, split: str, name: str, value: float) -> None:
        if self._writer is None:
            self._writer = self._writer_of(str(self._folder), purge_step=self._purge)
        self._writer.add_scalar(f"{name}/{split}", value, step)

    def rewind(self, step: int) -> None:
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _WeightsAndBiases:
    """Weights & Biases: offline, below `wandb/`, unless WANDB_MODE says otherwise (`wandb sync` sends it)."""

    def __init__(self, settings: TrackingRecipe, run: Path, name: str) -> None:
        module: Any = importlib.import_module("wandb")
        self._run = module.init(
            project=settings.project,
            name=name,
            dir=str(run),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
        )
        # A step of its own for each curve: splits are not measured at the same steps.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, name: str, value: float) -> None:
        self._run.log({f"{name}/{split}": value, "step": step})

    def rewind(self, step: int) -> None:
        pass  # a new run is opened each time; the older one ends where it was killed

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow: `mlflow.db` in the run folder unless MLFLOW_TRACKING_URI names a server."""

    def __init__(self, settings: TrackingRecipe, run: Path, name: str) -> None:
        module: Any = importlib.import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            module.set_tracking_uri(f"sqlite:///{(run / 'mlflow.db').resolve()}")
        module.set_experiment(settings.project)
        self._client: Any = module
        self._id = module.start_run(run_name=name, nested=True).info.run_id

    def write(self, step: int, split: str, name: str, value: float) -> None:
        self._client.log_metric(f"{name}/{split}", value, step=step, run_id=self._id)

    def rewind(self, step: int) -> None:
        pass  # a new run is opened each time; the older one ends where it was killed

    def close(self) -> None:
        self._client.end_run()


_PLACES: dict[str, Callable[[TrackingRecipe, Path, str], Sink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
