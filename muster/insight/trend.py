"""Counts by day, their trend, and the pattern of the week.

The trend is the median of the slopes between all pairs of days that are the same day of the week (Sen 1968,
by season as in Hirsch, Slack & Smith 1982), of the logarithm of the counts: neither a weekday nor a single
odd day moves it. Its interval comes from resampling whole weeks of residuals, whose days belong together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from muster.insight.events import ANSWER, DAY_US, Events, people_in
from muster.insight.hiding import Table, shown
from muster.insight.intervals import RESAMPLES, Floats, quantiles

WEEKS_LEAST = 4
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def trend(events: Events, least: int, seed: int) -> list[Table]:
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
    growth, drawn, pattern, patterns = fitted(logs, seed)
    low, high = quantiles(drawn)
    whole = {"of": int(counts[-weeks * 7 :].sum()), "people": counted.people()}
    low, high = quantiles(drawn)
    growth_row = {"figure": f"{what} a week", "value": math.expm1(growth), "low": math.expm1(low)}
    growth_row |= {"high": math.expm1(high), "weeks": weeks, **whole}
    weekday_rows: list[dict[str, Any]] = []
    offset = (first + days - weeks * 7 + 3) % 7  # day 0 of the epoch is a Thursday
    for one in sorted(range(7), key=lambda one: (one + offset) % 7):
        low, high = quantiles(patterns[:, one])
        row = {
            "weekday": _WEEKDAYS[(one + offset) % 7],
            "value": float(pattern[one]),
            "low": low,
            "high": high,
        }
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


def fitted(logs: Floats, seed: int) -> tuple[float, Floats, Floats, Floats]:
    """The trend of a series. logs: of counts, float64 [weeks, 7]; three weeks or more.

    Returns: the slope a week, and resampled [RESAMPLES]; each day's factor [7], and resampled [RESAMPLES, 7].
    """
    weeks = len(logs)
    slope = float(_slopes(logs[None])[0])
    trend_line = slope * np.arange(weeks)[:, None]
    effects = np.median(logs - trend_line, axis=0)
    # The fit takes two figures from each column: residuals are a little too small by that.
    residuals = (logs - trend_line - effects) * math.sqrt(weeks / (weeks - 2))
    rng = np.random.default_rng(seed)
    drawn = trend_line + effects + residuals[rng.integers(0, weeks, (RESAMPLES, weeks))]
    slopes = _slopes(drawn)
    again = np.median(drawn - slopes[:, None, None] * np.arange(weeks)[None, :, None], axis=1)
    return slope, slopes, _factors(effects[None])[0], _factors(again)


def _slopes(logs: Floats) -> Floats:
    """Median slope a week of each series, float64 [series, weeks, 7]."""
    early, late = np.triu_indices(logs.shape[1], 1)
    pairs = (logs[:, late] - logs[:, early]) / (late - early)[None, :, None]
    return np.asarray(np.median(pairs.reshape(len(logs), -1), axis=1))


def _factors(effects: Floats) -> Floats:
    return np.asarray(np.exp(effects - effects.mean(axis=1, keepdims=True)))


def _nothing(why: str) -> list[Table]:
    return [Table("growth", "Trend", "", [], why), Table("weekdays", "Days of the week", "", [], why, "")]
