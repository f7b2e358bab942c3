"""Did the alert that belongs to the fault fire in time, and end? Reads nothing but the history."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import AlertFindings
from drills.journal import History
from drills.judges.checks import STALL_MS, generator_stall_ms

FASTER = 60
"""By how much time runs faster for the rules than for the replicas: a minute lasts a second."""

LONG_WINDOWED = frozenset({"MusterBudgetBurns", "MusterBudgetBurnsFast", "MusterBudgetBurnsSlowly"})
"""They look at hours and days, of which a drill sees a moment: one failed call is a large share of that."""

_LISTS = ("others", "unforeseen")


@dataclass(frozen=True)
class Due:
    """An alert that a fault must set off.

    within_s: of the fault, in drill's time, in which a minute of the rule lasts a second.
    """

    name: str
    within_s: float


@dataclass(frozen=True)
class Watched:
    """What is watched beside a drill.

    due: must fire, and end, in each run. aside: may fire as well, for a reason that is known. faster: by how
    much every window and duration of the rules is divided. counts: whether one that stays away is a
    deviation; not in a control, whose fault is another one.
    """

    due: tuple[Due, ...] = ()
    aside: tuple[str, ...] = ()
    faster: float = FASTER
    counts: bool = True


def judge_alerts(history: History, watched: Watched, *, excuse: str | None = None) -> AlertFindings:
    """For each alert that is due, how long after the fault it fired and ended, ms; and what is wrong.

    A drill without a fault expects none. Also in the figures: `others` that fired, and of these the
    `unforeseen`, which the book does not count with.
    excuse: why the alerts are not due in this run after all; None: they are.
    """
    fault = history.first("fault")
    if fault is None:
        return AlertFindings({})
    told = history.of("alert")
    stall_ms = generator_stall_ms(history)
    figures: dict[str, Any] = {}
    deviations: list[str] = []
    doubts: list[str] = []
    for due in watched.due:
        fired_s = _first(told, due.name, "firing", fault["at_s"])
        resolved_s = None if fired_s is None else _first(told, due.name, "resolved", fired_s)
        fired_ms = _after_ms(fired_s, fault["at_s"])
        figures[due.name] = {
            "fired_ms": fired_ms,
            "resolved_ms": _after_ms(resolved_s, fault["at_s"]),
            "within_ms": 1000.0 * due.within_s,
        }
        if excuse is not None:
            continue
        if fired_ms is None and _fires_at(told, due.name, fault["at_s"]):
            doubts.append(f"the alert {due.name} fired before the fault, so nothing is known of it")
        elif problem := _problem(due, fired_ms, resolved_s):
            if stall_ms > STALL_MS:
                doubts.append(
                    f"{problem}; but this machine kept the load generator itself waiting for up to "
                    f"{stall_ms:.0f} ms"
                )
            else:
                deviations.append(problem)
    others = {one["alert"] for one in told if one["status"] == "firing"} - {due.name for due in watched.due}
    figures["others"] = sorted(others)
    figures["unforeseen"] = sorted(others - set(watched.aside) - LONG_WINDOWED)
    if excuse is not None:
        figures["not_due"] = excuse
    return AlertFindings(figures, tuple(deviations), tuple(doubts))


def over_runs(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the figures of single runs: the median and the slowest of each alert, in how many runs it stayed
    away, and the others that fired."""
    return over_parts([_alone(one) for one in each if one])


def over_parts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of what `over_runs` found for each part of a drill, the same over all: the median of the medians, the
    slowest of the slowest, the sum of the silent runs. Empty where nothing was watched."""
    figures: dict[str, Any] = {}
    names = dict.fromkeys(name for part in parts for name, one in part.items() if isinstance(one, dict))
    for name in names:
        ones = [part[name] for part in parts if name in part]
        kept = {key: [one[key] for one in ones if one[key] is not None] for key in ones[0]}
        figures[name] = {
            "fired_ms_p50": _median(kept["fired_ms_p50"]),
            "fired_ms_max": max(kept["fired_ms_max"], default=None),
            "resolved_ms_p50": _median(kept["resolved_ms_p50"]),
            "within_ms": max(kept["within_ms"]),
            "silent_runs": sum(kept["silent_runs"]),
        }
    for name in _LISTS if parts else ():
        figures[name] = sorted({alert for part in parts for alert in part.get(name, ())})
    if excuses := [part["not_due"] for part in parts if "not_due" in part]:
        figures["not_due"] = excuses[0]
    return figures


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """What `over_runs` found, for people."""
    told = []
    for name, one in figures.items():
        if not isinstance(one, Mapping):
            continue
        if one["fired_ms_p50"] is None:
            told.append(f"{name} did not fire")
            continue
        ended = "did not end" if one["resolved_ms_p50"] is None else f"ended {one['resolved_ms_p50']:.0f} ms"
        told.append(
            f"{name} fired {one['fired_ms_p50']:.0f} ms after the fault (limit {one['within_ms']:.0f} ms), "
            f"{ended}" + ("" if ended == "did not end" else " after it")
        )
    if figures.get("unforeseen"):
        told.append(f"without a known cause: {', '.join(figures['unforeseen'])}")
    if known := [name for name in figures.get("others", ()) if name not in figures.get("unforeseen", ())]:
        told.append(f"as well: {', '.join(known)}")
    if "not_due" in figures:
        told.append(f"none is due: {figures['not_due']}")
    return told or ["none fired, and none is due"]


def _alone(run: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one run in the shape of those of several."""
    return {
        name: {
            "fired_ms_p50": one["fired_ms"],
            "fired_ms_max": one["fired_ms"],
            "resolved_ms_p50": one["resolved_ms"],
            "within_ms": one["within_ms"],
            "silent_runs": int(one["fired_ms"] is None),
        }
        if isinstance(one, dict)
        else one
        for name, one in run.items()
    }


def _problem(due: Due, fired_ms: float | None, resolved_s: float | None) -> str:
    if fired_ms is None:
        return f"the alert {due.name} did not fire"
    if fired_ms > 1000.0 * due.within_s:
        limit_ms = 1000.0 * due.within_s
        return f"the alert {due.name} fired {fired_ms:.0f} ms after the fault, not within {limit_ms:.0f} ms"
    return f"the alert {due.name} fired and did not end" if resolved_s is None else ""


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _first(told: Sequence[Mapping[str, Any]], name: str, status: str, since_s: float) -> float | None:
    return next(
        (
            float(one["at_s"])
            for one in told
            if one["alert"] == name and one["status"] == status and one["at_s"] >= since_s
        ),
        None,
    )


def _fires_at(told: Sequence[Mapping[str, Any]], name: str, at_s: float) -> bool:
    before = [one["status"] for one in told if one["alert"] == name and one["at_s"] < at_s]
    return before.count("firing") > before.count("resolved")


def _after_ms(at_s: float | None, fault_s: float) -> float | None:
    return None if at_s is None else round(1000.0 * (at_s - fault_s), 1)
