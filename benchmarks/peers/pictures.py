"""Two pictures of a comparison: latency at equal quality, and quality in time under a storm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from benchmarks.peers.measure import generator_bound

Row = Mapping[str, Any]
OURS = ("#c1121f", "#e07a3f")
THEIRS = (
    "#264653",
    "#2a9d8f",
    "#457b9d",
    "#6d597a",
    "#8d99ae",
    "#588157",
    "#1d3557",
    "#9c6644",
    "#5e548e",
    "#3d5a80",
)
MARKERS = "osD^vPX*<>"
TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def _colour(number: int, ours: int) -> str:
    return OURS[number % len(OURS)] if number < ours else THEIRS[(number - ours) % len(THEIRS)]


def _ours(rows: Sequence[Row]) -> int:
    return sum(str(row["name"]).startswith("muster") for row in rows)


def latency_picture(rows: Sequence[Row], path: Path) -> Path:
    """p50 as a dot and p99 as the end of a line for each server, fastest on top, with the nDCG@10 it
    served."""
    ordered = sorted(rows, key=lambda row: float(row["p50_ms"]), reverse=True)
    ours = _ours(rows)
    figure, axes = plt.subplots(figsize=(9.0, 1.4 + 0.42 * len(rows)), constrained_layout=True)
    for place, row in enumerate(ordered):
        number = list(rows).index(row)
        colour = _colour(number, ours)
        axes.plot([row["p50_ms"], row["p99_ms"]], [place, place], color=colour, linewidth=2.0, alpha=0.6)
        axes.plot(row["p50_ms"], place, "o", color=colour, markersize=8)
        axes.plot(row["p99_ms"], place, "|", color=colour, markersize=12)
        axes.annotate(
            f"{row['p50_ms']:.1f} ms, nDCG {row['ndcg10']:.3f}",
            (row["p99_ms"], place),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(ordered)), [str(row["title"]) for row in ordered])
    for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
        if str(row["name"]).startswith("muster"):
            label.set_fontweight("bold")
    least, most = min(row["p50_ms"] for row in rows), max(row["p99_ms"] for row in rows)
    # Room on the right for what is written behind the last line.
    axes.set_xscale("log")
    axes.set_xlim(least * 0.7, most * 6.0)
    _milliseconds(axes, least * 0.7, most * 6.0)
    axes.set_xlabel("milliseconds to re-rank 50 candidates, one caller: dot p50, tick p99")
    axes.set_title("Latency, same queries and candidates", loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _save(figure, path)


def _milliseconds(axes: Axes, least: float, most: float) -> None:
    ticks = [tick for tick in TICKS_MS if least <= tick <= most]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def storm_picture(rows: Sequence[Row], workload: Mapping[str, Any], path: Path) -> Path:
    """Quality in time by load: at multiples of each one's own capacity, at the same rates for all, and with
    the longer deadline."""
    absolute: Sequence[Row] = next((row["storm_absolute"] for row in rows if row.get("storm_absolute")), [])
    rates = ", ".join(f"{cell['rate_per_s']:.0f}" for cell in absolute)
    deadline_ms, patient_ms = workload["deadline_ms"], workload.get("patient_deadline_ms", 0)
    titles = {
        "storm": f"{deadline_ms:g} ms; load: times each one's own capacity",
        "storm_absolute": f"{deadline_ms:g} ms; for all {rates} requests/s",
        "storm_patient": f"{patient_ms:g} ms; load: times each one's own capacity",
    }
    views = [view for view in titles if any(row.get(view) for row in rows)]
    figure, panels = plt.subplots(
        1,
        len(views),
        figsize=(4.6 * len(views) + 0.8, 5.4),
        sharey=True,
        constrained_layout=True,
        squeeze=False,
    )
    ours = _ours(rows)
    for axes, view in zip(panels[0], views, strict=True):
        for number, row in enumerate(rows):
            cells = row.get(view) or []
            loads = [cell["load"] for cell in cells]
            values, low, high = (
                [math.nan if cell[key] is None else cell[key] for cell in cells]
                for key in ("quality_in_time", "quality_min", "quality_max")
            )
            axes.plot(
                loads,
                values,
                color=_colour(number, ours),
                marker=MARKERS[number % len(MARKERS)],
                linewidth=2.6 if number < ours else 1.4,
                markersize=7 if number < ours else 5,
                zorder=3 if number < ours else 2,
                label=str(row["title"]) if view == views[0] else None,
                # Many have nothing in time: their marks lie on the edge, and must not be cut off.
                clip_on=False,
            )
            hollow = [generator_bound(cell) for cell in cells]
            for load, value in compress(zip(loads, values, strict=True), hollow):
                axes.plot(
                    load,
                    value,
                    color=_colour(number, ours),
                    marker=MARKERS[number % len(MARKERS)],
                    markerfacecolor="white",
                    markersize=7 if number < ours else 5,
                    zorder=4,
                    clip_on=False,
                )
            axes.fill_between(loads, low, high, color=_colour(number, ours), alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        ticks = sorted({cell["load"] for row in rows for cell in row.get(view) or []})
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{load:g}x" for load in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.set_title(titles[view], loc="left", fontsize=9.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0][0].set_ylabel("sum of nDCG@10 in time, by all requests offered")
    panels[0][0].set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    title = "Quality in time under a storm"
    if any(generator_bound(cell) for row in rows for view in views for cell in row.get(view) or []):
        title += "; hollow: the generator could not send so much, which tells nothing of the server"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=150, format="png")
    plt.close(figure)
    part.replace(path)
    return path
