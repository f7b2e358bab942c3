"""Two runs of drills side by side: how far apart their figures are, and whether that is more than chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from drills.report.records import Run

RESAMPLES = 4_000
SHARE = 0.95
RUNS_MIN = 3
"""Fewer single runs of either side than this bound nothing."""


@dataclass(frozen=True)
class Compared:
    """One figure of the single runs. a, b: medians. low, high: of b less a, 95 % (percentile bootstrap of the
    medians, Efron & Tibshirani 1993, chapter 13); None with too few single runs to tell.
    """

    figure: str
    a: float
    b: float
    runs: tuple[int, int]
    low: float | None = None
    high: float | None = None

    @property
    def apart(self) -> bool:
        """Whether the difference is more than chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compare(a: Run, b: Run, *, seed: int = 1) -> list[Compared]:
    """Every figure that single runs of both have. Raises: ValueError where the drills differ."""
    if a.drill != b.drill:
        raise ValueError(
            f"run {a.number} is of {a.drill}, run {b.number} of {b.drill}: only runs of one drill compare"
        )
    of_a, of_b = single_figures(a), single_figures(b)
    draw = random.Random(seed)
    found = []
    for figure in of_a:
        if figure not in of_b:
            continue
        values_a, values_b = of_a[figure], of_b[figure]
        low, high = _interval(values_a, values_b, draw)
        found.append(
            Compared(figure, median(values_a), median(values_b), (len(values_a), len(values_b)), low, high)
        )
    return found


def single_figures(run: Run) -> dict[str, list[float]]:
    """The numbers of the single runs, by name; of a drill that is one run, its own."""
    each: Sequence[dict[str, Any]] = run.details.get("each") or [run.figures]
    found: dict[str, list[float]] = {}
    for one in each:
        for name, value in one.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append(float(value))
    return found


def _interval(
    a: Sequence[float], b: Sequence[float], draw: random.Random
) -> tuple[float | None, float | None]:
    if min(len(a), len(b)) < RUNS_MIN:
        return None, None
    differences = sorted(
        median(draw.choices(b, k=len(b))) - median(draw.choices(a, k=len(a))) for _ in range(RESAMPLES)
    )
    tail = (1 - SHARE) / 2
    return differences[int(tail * RESAMPLES)], differences[int((1 - tail) * RESAMPLES) - 1]
