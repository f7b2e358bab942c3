"""Classes: what the teachers take for what, where judgements are grades with names.

A score becomes a grade by thresholds that give the grades the shares they have in the other folds' labels,
at the other folds' scores: no query has a say in its own thresholds. Writes `teacher/classes-<set>.txt`
(precision, recall and F1 of each grade), `teacher/confusion-<set>.png` and `teacher/calibration-<set>.png`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.recipe import DataSet, RecipeError


def graded_by_share(
    scores: NDArray[np.float64], grades: NDArray[np.int64], folds: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Grades of scores, each fold's by the thresholds of the others.

    scores: [n], comparable between folds, higher is better; grades: [n], the judged ones, 0 (worst) to
    count - 1; folds: [n]. Returns: [n], 0 to count - 1.
    Raises: ValueError where only one fold has labels.
    """
    found = np.zeros(len(scores), dtype=np.int64)
    for fold in np.unique(folds):
        here, others = folds == fold, folds != fold
        if not others.any():
            raise ValueError("only one fold has labels: use more folds or more queries")
        below = np.cumsum(np.bincount(grades[others], minlength=count))[:-1] / others.sum()
        found[here] = np.searchsorted(np.quantile(scores[others], below), scores[here], side="right")
    return found


def write_classes(
    folder: Path,
    one: DataSet,
    gains: Sequence[float],
    scores: NDArray[np.float64],
    folds: NDArray[np.int64],
    logits: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Write the report and the plots of one set.

    gains: as in the file; scores, folds: of the same pairs. logits: scores whose sigmoid estimates the
    target, if they are such: their calibration is drawn, and "calibration_error" is the mean gap.
    Returns: {"accuracy", "macro_f1", "grades": {name: {"precision", "recall", "f1", "pairs"}}, "absent":
    names of grades that no pair has}.
    Raises: RecipeError for a gain without a name, or where a package is missing.
    """
    order = sorted(one.grades, key=float)
    names = [one.grades[gain] for gain in order]
    place = {float(gain): at for at, gain in enumerate(order)}
    unnamed = sorted({gain for gain in gains if gain not in place})
    if unnamed:
        raise RecipeError(f"data.{one.name}.grades says nothing of the gain {unnamed[0]}")
    judged = np.array([place[gain] for gain in gains], dtype=np.int64)
    taken = graded_by_share(scores, judged, folds, len(names))
    metrics = _package("sklearn.metrics", "scikit-learn")
    numbers = list(range(len(names)))
    settings: dict[str, Any] = {"labels": numbers, "target_names": names, "zero_division": 0.0}
    text = metrics.classification_report(judged, taken, digits=3, **settings)
    values = metrics.classification_report(judged, taken, output_dict=True, **settings)
    absent = [name for at, name in enumerate(names) if not (judged == at).any()]
    head = f"{one.name}: out-of-fold grades of {len(judged)} judged pairs\n\n"
    note = f"\nno pair is judged {', '.join(absent)}\n" if absent else ""
    (folder / f"classes-{one.name}.txt").write_text(head + text + note, encoding="utf-8")
    matrix = metrics.confusion_matrix(judged, taken, labels=numbers)
    plot_confusion(folder / f"confusion-{one.name}.png", one.name, names, matrix)
    calibration = {}
    if logits is not None:
        targets = np.array([one.targets[str(float(gain))] for gain in gains])
        bins = calibration_bins(1.0 / (1.0 + np.exp(-logits)), targets)
        plot_calibration(folder / f"calibration-{one.name}.png", one.name, bins)
        gap = sum(count * abs(said - found) for said, found, count in bins) / len(gains)
        calibration = {"calibration_error": round(float(gap), 4)}
    return calibration | {
        "accuracy": round(float((judged == taken).mean()), 4),
        "macro_f1": round(float(values["macro avg"]["f1-score"]), 4),
        "grades": {name: _rounded(values[name]) for name in names},
        "absent": absent,
    }


def calibration_bins(
    said: NDArray[np.float64], found: NDArray[np.float64], bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean estimate, mean target and pairs of each tenth of the pairs, by rising estimate.

    said, found: [n], 0 to 1. Bins of equal size rather than width: few pairs are sure of anything.
    """
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(said[part].mean()), float(found[part].mean()), len(part)) for part in parts]


def plot_calibration(path: Path, title: str, bins: Sequence[tuple[float, float, int]]) -> None:
    """A PNG: what was said against what was found. Raises: RecipeError where matplotlib is missing."""
    figure = _package("matplotlib.figure", "matplotlib").Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="perfect")
    axes.plot([one[0] for one in bins], [one[1] for one in bins], marker="o", label="a tenth of the pairs")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("estimated target (sigmoid of the score)")
    axes.set_ylabel("mean target of the judgements")
    axes.set_title(f"{title}: calibration, out of fold", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130, format="png")


def plot_confusion(path: Path, title: str, names: Sequence[str], matrix: NDArray[np.int64]) -> None:
    """A PNG: judged grades down, taken ones across; colour is the share of the judged grade.

    matrix: [judged, taken], counts. Raises: RecipeError where matplotlib is missing.
    """
    figure_of: Any = _package("matplotlib.figure", "matplotlib").Figure
    figure = figure_of(figsize=(1.5 + len(names), 1.2 + 0.9 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("taken for")
    axes.set_ylabel("judged")
    axes.set_title(f"{title}: share of each judged grade, out of fold", fontsize=9)
    for row, column in np.ndindex(matrix.shape):
        axes.text(
            column,
            row,
            f"{shares[row, column]:.0%}\n{matrix[row, column]}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    figure.savefig(path, dpi=130, format="png")


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"a report by grade needs the package {package}: `pip install {package}`, or leave out `grades`"
        ) from error


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {
        "precision": round(float(values["precision"]), 4),
        "recall": round(float(values["recall"]), 4),
        "f1": round(float(values["f1-score"]), 4),
        "pairs": int(values["support"]),
    }
