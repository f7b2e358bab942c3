"""Pictures: a run over time, and the quality served by deadline.

A run is requests over time coloured by tier, errors and the fault marked, deadline hits below. Every tier has
one colour in every such plot (Okabe & Ito's palette, distinguishable with the common kinds of colour
blindness), and the stack always goes from the cheapest tier at the bottom to the dearest on top. The curve
takes its colours from the same palette, from cold to hot with the load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import colors, pyplot

from drills.journal import History, Record

OK = "OK"

TIER_COLOURS: dict[str, str] = {
    "lexical": "#F0E442",
    "hybrid": "#E69F00",
    "late": "#56B4E9",
    "cross_small": "#0072B2",
    "cross_large": "#004166",
}
ERROR_COLOUR = "#D55E00"
WRITE_COLOUR = "#009E73"
FAULT_COLOUR = "#000000"
OTHER_COLOUR = "#BBBBBB"

LOAD_COLOURS = ("#004166", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#7A2E00")
"""From the lightest load to the heaviest; the last one is vermillion, darkened."""
LABEL_GAP = 0.045
"""Of the height of the panel: what one line of text needs."""


def timeline(history: History, path: Path, *, title: str, deadline_ms: float | None = None) -> Path:
    """Draws one run into a PNG and returns its path.

    deadline_ms: draws the share of the reads answered OK within it, per interval; None: the share answered at
    all. Requests are placed at their intended moment, so a stall shows where it began.
    """
    reads, writes = history.of("read"), history.of("write")
    moments = [record["intended_s"] for record in (*reads, *writes)]
    end_s = max(moments, default=1.0)
    width_s = _interval_s(end_s)
    edges = np.arange(0.0, end_s + width_s, width_s)
    if len(edges) < 2:
        edges = np.array([0.0, width_s])
    centres = (edges[:-1] + edges[1:]) / 2

    panels = 3 if writes else 2
    heights = [3.0, 1.0, 1.2][:panels] if writes else [3.0, 1.2]
    figure, axes = pyplot.subplots(
        panels, 1, sharex=True, figsize=(10, 1.6 + sum(heights)), height_ratios=heights, layout="constrained"
    )
    top, bottom = axes[0], axes[-1]

    base = np.zeros(len(centres))
    answered = [read for read in reads if read["status"] == OK]
    for tier, colour in (*TIER_COLOURS.items(), ("unknown", OTHER_COLOUR)):
        counts = _counts([read for read in answered if _tier(read) == tier], edges)
        if counts.any():
            top.bar(
                centres,
                counts / width_s,
                width_s,
                base / width_s,
                color=colour,
                label=f"tier {tier}",
                linewidth=0,
            )
            base += counts
    failed = _counts([read for read in reads if read["status"] != OK], edges)
    if failed.any():
        top.bar(
            centres,
            failed / width_s,
            width_s,
            base / width_s,
            color=ERROR_COLOUR,
            label="not answered",
            linewidth=0,
        )
        hit = failed > 0
        top.plot(
            centres[hit],
            (base + failed)[hit] / width_s,
            linestyle="",
            marker="x",
            markersize=5,
            color=ERROR_COLOUR,
        )
    top.set_ylabel("reads a second")
    top.set_title(title, loc="left")

    if writes:
        middle = axes[1]
        done = [write for write in writes if write["status"] == OK]
        middle.plot(
            [write["intended_s"] for write in done],
            [(write["done_s"] - write["intended_s"]) * 1000.0 for write in done],
            linestyle="",
            marker=".",
            markersize=5,
            color=WRITE_COLOUR,
            label="write acknowledged",
        )
        errors = [write["intended_s"] for write in writes if write["status"] != OK]
        if errors:
            middle.plot(errors, [0.0] * len(errors), "x", color=ERROR_COLOUR, label="failed", clip_on=False)
        middle.set_ylim(bottom=0.0)
        middle.set_ylabel("took, ms")
        middle.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)

    offered = _counts(reads, edges)
    hits = _counts([read for read in answered if _in_time(read, deadline_ms)], edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(offered > 0, hits / np.maximum(offered, 1), np.nan)
    bottom.step(centres, share, where="mid", color="#444444", linewidth=1.2)
    bottom.set_ylim(-0.03, 1.05)
    bottom.set_ylabel("answered" if deadline_ms is None else f"within {deadline_ms:g} ms")
    bottom.set_xlabel("seconds since the run began")

    for number, fault in enumerate(history.of("fault")):
        name = fault["fault"] + (f" {fault['replica']}" if "replica" in fault else "")
        for panel in axes:
            panel.axvline(
                fault["at_s"],
                color=FAULT_COLOUR,
                linestyle="--",
                linewidth=1.2,
                label=name if panel is top and number == 0 else None,
            )
    for rollback in history.of("rollback"):
        if history.first("fault") is not None:
            for panel in axes:
                panel.axvline(
                    rollback["at_s"],
                    color=FAULT_COLOUR,
                    linestyle=":",
                    linewidth=1.0,
                    label="rolled back" if panel is top else None,
                )
    handles, labels = top.get_legend_handles_labels()
    top.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def quality_curve(result: Mapping[str, Any], path: Path) -> Path:
    """Draws the deadline-quality curve into a file of the kind that its name ends in, and returns its path.

    result: what `drills.curve.run` returns. One line a load, named where it ends; the band is the least and
    the most of the rounds.
    """
    key = "measured_quality" if result["measured"] else "expected_quality"
    lines = []
    for load in result["loads"]:
        cells = [cell for cell in result["cells"] if cell["load"] == load and cell[key] is not None]
        if cells:
            lines.append((load, cells))
    figure, panel = pyplot.subplots(figsize=(10, 6), layout="constrained")
    top = max((cell[key]["max"] for _, cells in lines for cell in cells), default=1.0)
    height = max(1.03, top + 0.03)
    ends = []
    for (load, cells), colour in zip(lines, load_colours(len(lines)), strict=True):
        deadlines_ms = [cell["deadline_ms"] for cell in cells]
        panel.fill_between(
            deadlines_ms,
            [cell[key]["min"] for cell in cells],
            [cell[key]["max"] for cell in cells],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        medians = [cell[key]["median"] for cell in cells]
        panel.plot(deadlines_ms, medians, color=colour, linewidth=2, marker="o", markersize=5)
        ends.append((load, deadlines_ms[-1], medians[-1], colour))
    panel.axhline(1.0, color="#444444", linewidth=0.8, linestyle=":", zorder=0)
    panel.set_xscale("log")
    ticks = result["deadlines_ms"]
    panel.set_xticks(ticks, [f"{deadline_ms:g} ms" for deadline_ms in ticks])
    panel.minorticks_off()
    panel.set_xlim(ticks[0] / 1.1, ticks[-1] * 1.1)
    panel.set_ylim(0.0, height)
    for (load, end_ms, median, colour), place in zip(
        ends, spaced([median / height for _, _, median, _ in ends], LABEL_GAP), strict=True
    ):
        panel.annotate(
            f"{load:g} x capacity",
            (end_ms, median),
            (1.035, place),
            textcoords="axes fraction",
            va="center",
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
    panel.set_xlabel("deadline of every request")
    panel.set_ylabel("served quality")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    best = result["best_plan"]
    if result["measured"]:
        unit = f"measured nDCG@10 of all requests; 1 = the best plan's {best['measured_ndcg']:.3f}"
    else:
        unit = "expected nDCG@10 of all requests, by their receipts; 1 = the best plan's"
    rounds = result["rounds"]
    interval = f"line: median of {rounds} rounds; band: least to most" if rounds > 1 else "one round"
    subtitle = (
        f"{unit}; late or refused = 0\n"
        f"{result['bundle']}, {result['products']:,} products ({result['catalogue']}); "
        f"best plan {best['plan']}, capacity {result['capacity_per_s']:.0f} searches/s\n{interval}"
    )
    for text, points_above, size, colour in (
        ("Quality served, by deadline and load", 58, 15, "#000000"),
        (subtitle, 10, 10, "#444444"),
    ):
        panel.annotate(
            text,
            (0.0, 1.0),
            (0.0, points_above),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=size,
            color=colour,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def load_colours(count: int) -> list[str]:
    """So many colours, from cold to hot, as different as the palette allows."""
    if count <= 1:
        return [LOAD_COLOURS[1]] * count
    scale = colors.LinearSegmentedColormap.from_list("load", LOAD_COLOURS)
    return [colors.to_hex(scale(number / (count - 1))) for number in range(count)]


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """Places for labels, none nearer than `gap` to the next, as near as that allows to where they belong.

    Labels that would touch share the room around their mean, as far as it lies between 0 and 1; equal places
    keep their order, first on top.
    """
    order = sorted(range(len(places)), key=lambda number: (places[number], -number))
    groups: list[list[float]] = []  # of each group, from the bottom: the places that its labels belong to
    for number in order:
        groups.append([places[number]])
        while len(groups) > 1 and _lowest(groups[-1], gap) - _highest(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    found = [0.0] * len(places)
    spots = (_lowest(group, gap) + gap * at for group in groups for at in range(len(group)))
    for number, spot in zip(order, spots, strict=True):
        found[number] = spot
    return found


def _lowest(group: Sequence[float], gap: float) -> float:
    room = gap * (len(group) - 1)
    return max(0.0, min(sum(group) / len(group) - room / 2, 1.0 - room))


def _highest(group: Sequence[float], gap: float) -> float:
    return _lowest(group, gap) + gap * (len(group) - 1)


def _interval_s(end_s: float) -> float:
    """Width of one bar: about 100 over the run, none shorter than 50 ms."""
    return max(0.05, round(end_s / 100, 2))


def _tier(read: Record) -> str:
    tier = str(read.get("tier", ""))
    return tier if tier in TIER_COLOURS else "unknown"


def _counts(
    records: list[Record], edges: np.ndarray[Any, Any], key: str = "intended_s"
) -> np.ndarray[Any, Any]:
    return np.histogram([record[key] for record in records], bins=edges)[0].astype(float)


def _in_time(read: Record, deadline_ms: float | None) -> bool:
    return deadline_ms is None or (read["done_s"] - read["intended_s"]) * 1000.0 <= deadline_ms
