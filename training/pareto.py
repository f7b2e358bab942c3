"""The picture of a search: what each student is worth, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# More than these on one front could not be told apart in a picture.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FRONT, _OTHER, _CHOSEN, _DEADLINE = "#0072B2", "#999999", "#D55E00", "#000000"


def draw_front(path: Path, report: Mapping[str, Any]) -> Path:
    """Draw what `search/report.json` says as a PNG: milliseconds on a log axis against nDCG@10."""
    # Imported late: only whoever draws needs it.
    from matplotlib.figure import Figure

    points = report["points"]
    on_front = [points[at] for at in report["front"]]
    others = [point for point in points if point not in on_front]
    figure: Any = Figure(figsize=(12.0, 6.4), layout="constrained")
    axes = figure.subplots()
    _errors(axes, others, _OTHER, "other students and depths", alpha=0.45)
    axes.plot(
        [point["ms"] for point in on_front],
        [point["ndcg10"] for point in on_front],
        color=_FRONT,
        linewidth=1.6,
    )
    _errors(axes, on_front, _FRONT, "Pareto front: nothing as cheap is better")
    chosen = report["choice"]["point"]
    if chosen is not None:
        axes.plot(
            points[chosen]["ms"],
            points[chosen]["ndcg10"],
            marker="*",
            markersize=19,
            color=_CHOSEN,
            markeredgecolor="white",
            linestyle="none",
            label=f"chosen: {points[chosen]['name']}",
            zorder=5,
        )
    usable_ms = report["deadline_ms"] * report["usable_share"]
    axes.axvline(
        report["deadline_ms"], color=_DEADLINE, linewidth=1.4, label=f"deadline {report['deadline_ms']:g} ms"
    )
    axes.axvline(
        usable_ms,
        color=_DEADLINE,
        linewidth=1.1,
        linestyle=":",
        label=f"planned with: {report['usable_share']:.0%} of it, {usable_ms:g} ms",
    )
    axes.set_xscale("log")
    _plain_ticks(axes, [*(point["ms"] for point in points), report["deadline_ms"], usable_ms])
    _letters(axes, on_front)
    axes.set_xlabel(
        "milliseconds of a request: query encoding and every pair, int8, one thread, this machine"
    )
    axes.set_ylabel("nDCG@10 out of fold, judged products, sets alike")
    taken = "no cross-encoder chosen" if chosen is None else "one chosen"
    axes.set_title(
        f"{report['finished']} students measured, {report['ended_early']} ended early, {taken}; "
        f"bars: {report['interval']:.0%} intervals over {report['queries']} queries",
        fontsize=10,
    )
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part." + path.name)
    figure.savefig(part, dpi=120)
    part.replace(path)
    return path


def _errors(
    axes: Any, points: Sequence[Mapping[str, Any]], colour: str, label: str, alpha: float = 1.0
) -> None:
    if not points:
        return
    worth = [point["ndcg10"] for point in points]
    below = [point["ndcg10"] - point["low"] for point in points]
    above = [point["high"] - point["ndcg10"] for point in points]
    axes.errorbar(
        [point["ms"] for point in points],
        worth,
        yerr=[below, above],
        fmt="o",
        markersize=5,
        color=colour,
        ecolor=colour,
        elinewidth=1.0,
        capsize=2.5,
        alpha=alpha,
        label=label,
    )


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """1, 2, 5, 10, ... within what is shown, as people write them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) * 0.75, max(values) * 1.35
    ticks = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _letters(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """A letter at each point of the front, and what it is beside the picture: names would meet each other."""
    lines = []
    for letter, point in zip(_LETTERS, points, strict=False):
        axes.annotate(
            letter,
            (point["ms"], point["ndcg10"]),
            xytext=(-5, 5),
            textcoords="offset points",
            ha="right",
            fontsize=11,
            fontweight="bold",
            color=_FRONT,
        )
        name = point["name"].replace(": ", ":\n    ", 1)
        lines.append(f"{letter}  {name}\n    {point['ms']:.1f} ms, nDCG@10 {point['ndcg10']:.3f}")
    axes.text(1.02, 1.0, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8.5, linespacing=1.35)
