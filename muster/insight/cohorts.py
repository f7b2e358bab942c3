"""Who comes back: shoppers by the week in which they first came, and the weeks after."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.insight.events import DAY_US, Events
from muster.insight.hiding import Table, shown
from muster.insight.intervals import wilson

WEEK_US = 7 * DAY_US
_MONDAY_US = 4 * DAY_US  # the first one after the epoch, a Thursday
WEEKS = 12


def cohorts(events: Events, least: int) -> tuple[Table, Table]:
    """The matrix of cohorts by weeks since, and the share that is back after each number of weeks over all.

    A week that the data do not hold to its end is left out, and so is, for each shopper, every week that ends
    after the period of the pseudonym: it would look as if nobody came back.
    """
    titles = ("Returning shoppers, by week", "Returning shoppers, by first week")
    named = events.take(events.named)
    if not len(named):
        why = "No shopper is named; sessions do not come back."
        return Table("returning", titles[0], "", [], why), Table("cohorts", titles[1], "", [], why)
    week = (named.at_us - _MONDAY_US) // WEEK_US
    begin = -(-(int(named.at_us.min()) - _MONDAY_US - DAY_US) // WEEK_US)
    end = (int(named.at_us.max()) + DAY_US - _MONDAY_US) // WEEK_US
    pairs = np.unique(np.stack([named.actor, week]), axis=1)
    actor, week = pairs
    actors, first_at = np.unique(actor, return_index=True)
    first = week[first_at]
    until_us = np.zeros(int(actors.max()) + 1, dtype=np.int64)
    until_us[named.actor] = named.known_until_us
    last = np.minimum((until_us[actors] - _MONDAY_US) // WEEK_US, end) - 1
    renewed = bool((until_us[actors] < 2**61).any())
    place = np.searchsorted(actors, actor)
    age = week - first[place]
    matrix, over_all = [], []
    for since in range(1, min(max(int(end - begin), 1), WEEKS + 1)):
        back = np.zeros(len(actors), dtype=bool)
        back[place[age == since]] = True
        at_risk = (first >= begin) & (first + since <= last)
        if at_risk.any():
            over_all.append({"weeks_later": since, **_share(back[at_risk])})
        for start in np.unique(first[at_risk]):
            cohort = at_risk & (first == start)
            day = np.datetime64(int(start * 7 + 4), "D")
            matrix.append({"first_week": str(day), "weeks_later": since, **_share(back[cohort])})
    note = (
        "Pseudonyms change after a period, so a shopper who came before it looks new, and returns are"
        " followed within the period only."
        if renewed
        else "Shoppers who came before the data begin look new."
    )
    if not over_all:
        note = "The data hold no two whole weeks. " + note
    return (
        Table("returning", titles[0], "Share of shoppers who are back so many weeks after their first week.",
              shown(over_all, least), note),
        Table("cohorts", titles[1], "Share of a week's new shoppers who are back, by weeks since.",
              shown(matrix, least), note),
    )  # fmt: skip


def _share(back: Any) -> dict[str, Any]:
    count, of = int(back.sum()), len(back)
    low, high = wilson(count, of)
    return {"value": count / of, "low": low, "high": high, "count": count, "of": of, "people": of,
            "counted_people": count}  # fmt: skip
