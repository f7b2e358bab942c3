"""The picture of a fairness report: exposure over merit of each group, before and after the bound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BEFORE, _AFTER = "#5b6770", "#1f6fb2"
_GROUPS_MAX = 20


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG. result: of `training.fairness.fairness`. Groups beyond the twenty of most merit, and those
    whose ratio nobody can tell, are left out, and the title says how many. Raises: OSError.
    """
    from matplotlib.figure import Figure

    after = {one["group"]: one["exposure_to_merit"] for one in result["after"]}
    told = [one for one in result["before"] if one["exposure_to_merit"] and after.get(one["group"])]
    shown = told[:_GROUPS_MAX]
    figure = Figure(figsize=(7.5, 1.6 + 0.45 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for row, one in enumerate(shown):
        for value, colour, shift in (
            (one["exposure_to_merit"], _BEFORE, -0.12),
            (after[one["group"]], _AFTER, 0.12),
        ):
            axes.plot([value["low"], value["high"]], [row + shift] * 2, color=colour, linewidth=2)
            axes.plot([value["ratio"]], [row + shift], marker="o", color=colour, markersize=6)
    axes.axvline(1.0, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shown)), [_label(one) for one in shown])
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("exposure over merit, 95 % intervals")
    left_out = len(result["before"]) - len(shown)
    axes.set_title(
        f"{result['bundle']}, {result['plan']}, by {result['by']}, {result['queries']} queries"
        + (f" (groups left out: {left_out})" if left_out else ""),
        fontsize=10,
    )
    axes.plot([], [], color=_BEFORE, marker="o", label="as the bundle orders")
    axes.plot([], [], color=_AFTER, marker="o", label=f"with the bound of {result['floor']:g}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def _label(one: Mapping[str, Any]) -> str:
    name = str(one["group"])
    return f"{name if len(name) <= 28 else name[:27] + '…'} ({one['merit']:.0%} of the merit)"
