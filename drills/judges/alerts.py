"""Did the alert that belongs to the fault fire, and end? Reads nothing but the history."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from drills.journal import History


def judge_alerts(history: History, expected: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """For each expected alert, how long after the fault it fired and ended, ms; and what is wrong.

    A drill without a fault expects none. Also in the figures: the names of the others that fired.
    """
    fault = history.first("fault")
    if fault is None:
        return {}, []
    told = history.of("alert")
    figures: dict[str, Any] = {}
    wrong = []
    for name in expected:
        fired_s = _first(told, name, "firing", fault["at_s"])
        resolved_s = None if fired_s is None else _first(told, name, "resolved", fired_s)
        if fired_s is None:
            wrong.append(f"the alert {name} did not fire")
        elif resolved_s is None:
            wrong.append(f"the alert {name} fired and did not end")
        figures[name] = {
            "fired_ms": _after_ms(fired_s, fault["at_s"]),
            "resolved_ms": _after_ms(resolved_s, fault["at_s"]),
        }
    others = {one["alert"] for one in told if one["status"] == "firing"} - set(expected)
    figures["others"] = sorted(others)
    return figures, wrong


def over_runs(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the figures of single runs: the median and the slowest of each alert, and the others that fired."""
    names = dict.fromkeys(name for one in each for name in one if name != "others")
    figures: dict[str, Any] = {}
    for name in names:
        fired = [one[name]["fired_ms"] for one in each if one.get(name, {}).get("fired_ms") is not None]
        ended = [one[name]["resolved_ms"] for one in each if one.get(name, {}).get("resolved_ms") is not None]
        figures[name] = {
            "fired_ms_p50": statistics.median(fired) if fired else None,
            "fired_ms_max": max(fired, default=None),
            "resolved_ms_p50": statistics.median(ended) if ended else None,
        }
    others = sorted({name for one in each for name in one.get("others", ())})
    return {**figures, "others": others} if figures else {}


def _first(told: Sequence[Mapping[str, Any]], name: str, status: str, since_s: float) -> float | None:
    return next(
        (
            float(one["at_s"])
            for one in told
            if one["alert"] == name and one["status"] == status and one["at_s"] >= since_s
        ),
        None,
    )


def _after_ms(at_s: float | None, fault_s: float) -> float | None:
    return None if at_s is None else round(1000.0 * (at_s - fault_s), 1)
