"""A tune for people and machines: what was tried, before and after side by side, as table, picture, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from drills.tune.decide import Sides, sides
from drills.tune.outcome import Outcome, broken, cost, mean_cost
from drills.tune.profile import Profile
from drills.tune.space import BY_NAME, SETTINGS, Point
from drills.tune.study import Result
from drills.tune.written import reason, shown_number, shown_value

FIGURES: tuple[tuple[str, str, float], ...] = (
    ("unavailable_s", "writes away after a fault, ms", 1000.0),
    ("read_missed_share", "reads beside faults too late, %", 100.0),
    ("flood_missed_share", "flood not answered in time, %", 100.0),
    ("quality_lost_share", "quality lost in the flood, %", 100.0),
    ("extra_load_share", "reads sent twice, %", 100.0),
)
"""Of an outcome: its name, what people read, and times what."""


def figures(result: Result, profile: Profile) -> dict[str, Sides]:
    """Every measured figure of both sides, in its own unit, with its interval; `points` is the sum that
    decides."""
    confidence = profile.limits.confidence
    found = {
        name: sides(
            [factor * getattr(one, name) for one in result.before],
            [factor * getattr(one, name) for one in result.after],
            confidence=confidence,
        )
        for name, _, factor in FIGURES
    }
    found["points"] = sides(
        [cost(one, profile.weights) for one in result.before],
        [cost(one, profile.weights) for one in result.after],
        confidence=confidence,
    )
    return found


def plain(result: Result, profile: Profile) -> dict[str, Any]:
    """As JSON values."""
    decision = result.decision
    return {
        "recommended": bool(decision.kept),
        "why": decision.why,
        "start": result.start,
        "settings": result.point,
        "challenger": result.challenger,
        "changed": [
            {
                "setting": name,
                "unit": BY_NAME[name].unit,
                "before": result.start[name],
                "after": result.point[name],
                "reason": reason(BY_NAME[name], result.point, result),
            }
            for name in decision.changes(result.start)
        ],
        "groups": {name: told.plain() for name, told in decision.groups.items()},
        "total_points": decision.total.plain(),
        "figures": {name: told.plain() for name, told in figures(result, profile).items()},
        "runs_of_each_side": len(result.before),
        "start_broke": broken(result.before, profile.limits),
        "replicas_because": result.survival,
        "tried": [
            {
                "point": one.point,
                "origin": one.origin,
                "runs": len(one.outcomes),
                "points": round(mean_cost(one.outcomes, profile.weights), 4),
                "broke": one.broken(profile.limits),
            }
            for one in result.found.tried
        ],
    }


def table(result: Result, profile: Profile) -> list[Table]:
    """Settings, and figures, before and after."""
    changed = set(result.decision.changes(result.start))
    settings = Table("setting", "before", "after", box=None, pad_edge=False)
    for setting in SETTINGS:
        before, after = result.start[setting.name], result.point[setting.name]
        settings.add_row(
            setting.name,
            shown_value(setting, before),
            shown_value(setting, after) if setting.name in changed else "the same",
        )
    second = "recommended" if result.decision.kept else "challenger"
    measured = Table("measured", "before", second, "difference", "interval", box=None, pad_edge=False)
    names = {name: words for name, words, _ in FIGURES} | {"points": "points in all"}
    for name, told in figures(result, profile).items():
        difference = told.difference
        low, high = difference.low, difference.high
        interval = "" if low is None or high is None else f"{shown_number(low)} to {shown_number(high)}"
        told_sides = (shown_number(value) for value in (told.before, told.after, difference.mean))
        measured.add_row(names[name], *told_sides, interval)
    return [settings, measured]


def picture(result: Result, profile: Profile, path: Path) -> Path:
    """Each measured figure of both sides, run by run, with means; returns the path of the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from drills.plot import TIER_COLOURS

    second = "recommended" if result.decision.kept else "challenger"
    colours = (TIER_COLOURS["hybrid"], TIER_COLOURS["cross_small"])
    panels = [*FIGURES[:4], ("points", "points in all", 1.0)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.0 * len(panels), 3.2))
    for axis, (name, words, factor) in zip(axes, panels, strict=True):
        pairs = [_values(side, name, factor, profile) for side in (result.before, result.after)]
        for before, after in zip(*pairs, strict=True):
            axis.plot([0, 1], [before, after], color="#BBBBBB", linewidth=0.8, zorder=1)
        for place, (values, colour) in enumerate(zip(pairs, colours, strict=True)):
            axis.scatter([place] * len(values), values, color=colour, s=18, zorder=2)
            axis.hlines(fmean(values), place - 0.2, place + 0.2, color="#000000", zorder=3)
        axis.set_xticks([0, 1], ["before", second])
        axis.set_xlim(-0.4, 1.4)
        axis.set_ylim(bottom=0.0)
        axis.set_title(words, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{len(result.before)} runs of each side with the same seeds; lines join pairs", fontsize=10
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _values(side: Sequence[Outcome], name: str, factor: float, profile: Profile) -> list[float]:
    if name == "points":
        return [cost(one, profile.weights) for one in side]
    return [factor * getattr(one, name) for one in side]


def told_point(point: Point) -> str:
    """A point on one line."""
    return ", ".join(f"{setting.name} {shown_value(setting, point[setting.name])}" for setting in SETTINGS)
