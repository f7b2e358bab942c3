"""Counts by day, their trend, and the pattern of the week.

The trend is the median of the slopes between all pairs of days that are the same day of the week (Sen 1968,
by season as in Hirsch, Slack & Smith 1982), of the logarithm of the counts: neither a weekday nor a single
odd day moves it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from muster.insight.events import ANSWER, DAY_US, Events, people_in
from muster.insight.hiding import Table, shown
from muster.insight.intervals import Floats, Z, student

WEEKS_LEAST = 4
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def trend(events: Events, least: int) -> list[Table]:
    """Three tables: the growth a week, the days of the week, counts by day. Of answers, or of all events
    where no answers are in the data. The first and the last day are left out: they are seldom whole.
    """
    which = events.has(ANSWER)
    what = "answers" if which.any() else "events"
    counted = events.take(which) if which.any() else events
    day = counted.at_us // DAY_US
    first, days = int(day.min()) + 1, int(day.max()) - int(day.min()) - 1
    about = f"{what.capitalize()} a day, in UTC, without the first and the last day of the data."
    daily = Table("daily", "By day", about, [], unit="")
    if days < 1:
        return [*_nothing("The data hold no whole day."), daily]
    inside = (day >= first) & (day < first + days)
    at = day[inside] - first
    counts = np.bincount(at, minlength=days)
    people = people_in(at, counted.actor[inside], days)
    rows: list[dict[str, Any]] = [
        {"day": str(np.datetime64(first + one, "D")), "value": float(counts[one]), "count": int(counts[one]),
         "people": int(people[one])}
        for one in range(days)
    ]  # fmt: skip
    daily = Table("daily", "By day", about, shown(rows, least), unit="")
    weeks = days // 7
    if weeks < WEEKS_LEAST or not counts[-weeks * 7 :].all():
        why = f"A trend needs {WEEKS_LEAST} whole weeks without an empty day; there are {weeks}."
        return [*_nothing(why), daily]
    if people[-weeks * 7 :].min() < least:
        return [*_nothing(f"Some days have fewer than {least} people."), daily]
    logs = np.log(counts[-weeks * 7 :].astype(np.float64)).reshape(weeks, 7)
    growth, low, high = growth_of(logs)
    pattern = pattern_of(logs, growth)
    whole = {"of": int(counts[-weeks * 7 :].sum()), "people": counted.people()}
    growth_row = {"figure": f"{what} a week", "value": math.expm1(growth), "low": math.expm1(low)}
    growth_row |= {"high": math.expm1(high), "weeks": weeks, **whole}
    weekday_rows: list[dict[str, Any]] = []
    offset = (first + days - weeks * 7 + 3) % 7  # day 0 of the epoch is a Thursday
    for one in sorted(range(7), key=lambda one: (one + offset) % 7):
        value, low, high = (float(part[one]) for part in pattern)
        row = {"weekday": _WEEKDAYS[(one + offset) % 7], "value": value, "low": low, "high": high}
        weekday_rows.append({**row, "weeks": weeks, **whole})
    return [
        Table(
            "growth", "Trend", "Growth from one week to the next.", shown([growth_row], least), unit="change"
        ),
        Table(
            "weekdays",
            "Days of the week",
            "Each day as a multiple of the week's middle, trend aside.",
            shown(weekday_rows, least),
            unit="",
        ),
        daily,
    ]


def growth_of(logs: Floats) -> tuple[float, float, float]:
    """The slope a week of a series, with its interval. logs: of counts, float64 [weeks, 7].

    The interval is that of the ordered slopes (Gilbert 1987, 16.4.2) with the variance of the seasonal
    Kendall statistic, days of one week correlated as they are seen to be (Hirsch & Slack 1984), never less
    than if they were independent.
    """
    weeks = len(logs)
    early, late = np.triu_indices(weeks, 1)
    rises = logs[late] - logs[early]
    slopes = np.sort((rises / (late - early)[:, None]).ravel())
    signs = np.sign(rises)
    ranks = 1.0 + np.sum(0.5 * (1.0 + np.sign(logs[:, None] - logs[None])), axis=1) - 0.5
    covariance = (signs.T @ signs + 4.0 * ranks.T @ ranks - weeks * (weeks + 1) ** 2) / 3.0
    alone = logs.shape[1] * weeks * (weeks - 1) * (2 * weeks + 5) / 18
    reach = Z * math.sqrt(max(float(covariance.sum()), alone))
    low, high = (np.clip((len(slopes) + side) / 2, 0, len(slopes) - 1) for side in (-reach, reach))
    at = np.arange(len(slopes))
    return float(np.median(slopes)), float(np.interp(low - 1, at, slopes)), float(np.interp(high, at, slopes))


def pattern_of(logs: Floats, slope: float) -> tuple[Floats, Floats, Floats]:
    """Each day's factor to the middle of its week, trend aside, with its interval by Student's t over the
    weeks; float64 [7] each. logs: as above.
    """
    weeks, days = logs.shape
    flat = logs - slope * np.arange(days)[None, :] / days
    apart = flat - flat.mean(axis=1, keepdims=True)
    half = student(weeks - 1) * apart.std(axis=0, ddof=1) / math.sqrt(weeks)
    middle = apart.mean(axis=0)
    return np.exp(middle), np.exp(middle - half), np.exp(middle + half)


def _nothing(why: str) -> list[Table]:
    return [Table("growth", "Trend", "", [], why), Table("weekdays", "Days of the week", "", [], why, "")]
