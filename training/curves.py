"""Curves: how the training runs of a stage went, as a picture.

One panel for each quantity of `curves.jsonl`: each run a thin line, their mean a thick one. Where train and
unseen part, the models learn their own queries by heart.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.tracking import CURVES

Curve = dict[int, float]
"""Step to value."""

Panels = dict[str, dict[str, dict[str, Curve]]]
"""Quantity to split to training run to its curve."""

# The colour-blind safe palette that the other pictures use.
_COLOURS = {"train": "#0072B2", "dev": "#009E73", "unseen": "#D55E00"}
_SPLITS = {
    "train": "queries it learns from",
    "dev": "queries set aside for early stopping",
    "unseen": "queries of the fold it never sees",
}
_QUANTITIES = {"loss": "training loss", "ndcg10": "nDCG@10, judged products of a few queries"}
_SMOOTH_SHARE = 0.1


def draw_curves(run: Path, stage: str) -> Path | None:
    """Draw `<stage>/curves.png` of a run folder. Returns: its path, None where the stage left no curve."""
    panels = read_curves(run, stage)
    if not panels:
        return None
    # Imported late: where nothing is drawn, nothing is needed.
    from matplotlib.figure import Figure

    names = sorted(
        panels, key=lambda name: (list(_QUANTITIES).index(name) if name in _QUANTITIES else 9, name)
    )
    figure: Any = Figure(figsize=(5.6 * len(names) + 0.4, 4.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _panel(axes, name, panels[name])
    runs = {of for splits in panels.values() for curves in splits.values() for of in curves}
    figure.suptitle(f"{stage}: {len(runs)} training runs (thin), and their mean (thick)", fontsize=11)
    path = run / stage / "curves.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("curves.part.png")
    figure.savefig(part, dpi=120)
    part.replace(path)
    return path


def read_curves(run: Path, stage: str) -> Panels:
    """The curves of a stage's training runs; empty where there are none."""
    path = run / CURVES
    found: Panels = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    if not path.is_file():
        return {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:
            continue  # a kill cut the last line short
        first, _, rest = str(point["name"]).partition("/")
        of, _, quantity = rest.rpartition("/")
        if first == stage and of:
            found[quantity][point["split"]][of][int(point["step"])] = float(point["value"])
    return {name: {split: dict(runs) for split, runs in splits.items()} for name, splits in found.items()}


def smoothed(values: Sequence[float], width: int) -> NDArray[np.float64]:
    """Mean of the values around each, `width` at most, fewer at both ends; float64, as many as came."""
    numbers = np.asarray(values, dtype=np.float64)
    totals = np.concatenate([[0.0], np.cumsum(numbers)])
    at = np.arange(len(numbers))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(numbers))
    mean: NDArray[np.float64] = (totals[high] - totals[low]) / (high - low)
    return mean


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over runs at the steps of all of them, a run standing still after its last point.

    Before a run's first point it does not count, so that runs may begin at other steps.
    """
    steps = sorted({step for curve in curves for step in curve})
    found = {}
    for step in steps:
        values = [
            np.interp(step, sorted(curve), [curve[at] for at in sorted(curve)])
            for curve in curves
            if min(curve) <= step
        ]
        found[step] = float(np.mean(values))
    return found


def _panel(axes: Any, quantity: str, splits: Mapping[str, Mapping[str, Curve]]) -> None:
    for split, runs in sorted(splits.items()):
        colour = _COLOURS.get(split, "#555555")
        shown = {}
        for name, curve in runs.items():
            steps = sorted(curve)
            values: Sequence[float] = [curve[at] for at in steps]
            if quantity == "loss":
                values = smoothed(values, int(len(values) * _SMOOTH_SHARE) | 1).tolist()
            shown[name] = dict(zip(steps, values, strict=True))
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
        mean = mean_curve(list(shown.values()))
        marker = "o" if len(mean) <= 12 else ""
        label = _SPLITS.get(split, split)
        axes.plot(
            list(mean),
            list(mean.values()),
            color=colour,
            linewidth=2.4,
            marker=marker,
            markersize=4,
            label=label,
        )
    axes.set_xlabel("updates")
    axes.set_title(
        _QUANTITIES.get(quantity, quantity) + (", smoothed" if quantity == "loss" else ""), fontsize=10
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(splits) > 1:
        axes.legend(frameon=False, fontsize=9)
