"""A run as a picture: requests over time coloured by tier, errors and the fault marked, deadline hits below.

Every tier has one colour in every plot (Okabe & Ito's palette, distinguishable with the common kinds of
colour blindness), and the stack always goes from the cheapest tier at the bottom to the dearest on top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

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
