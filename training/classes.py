"""Classes: what the teachers take for what, where judgements are grades with names.

A score becomes a grade by thresholds that give the grades the shares they have in the other folds' labels,
at the other folds' scores: no query has a say in its own thresholds. Writes `teacher/classes-<set>.txt`
(precision, recall and F1 of each grade) and `teacher/confusion-<set>.png`.
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
) -> dict[str, Any]:
    """Write the report and the plot of one set.

    gains: as in the file; scores, folds: of the same pairs. Returns: {"accuracy", "macro_f1", "grades":
    {name: {"precision", "recall", "f1", "pairs"}}, "absent": names of grades that no pair has}.
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
    return {
        "accuracy": round(float((judged == taken).mean()), 4),
        "macro_f1": round(float(values["macro avg"]["f1-score"]), 4),
        "grades": {name: _rounded(values[name]) for name in names},
        "absent": absent,
    }


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
