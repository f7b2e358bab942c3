"""From an answer to a purchase, by session; and how much there is of everything in a session."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.insight.events import ANSWER, BUY, CART, CLICK, VIEW, Events, Ints, Mask
from muster.insight.hiding import Table, shown
from muster.insight.intervals import mean, share

STEPS = (
    ("saw products", (ANSWER, VIEW)),
    ("clicked", (CLICK,)),
    ("put in the cart", (CART,)),
    ("bought", (BUY,)),
)


def funnel(events: Events, least: int) -> Table:
    """Sessions that came as far as each step, having taken all steps before it."""
    sessions, actors = _sessions(events)
    reached = np.ones(len(sessions), dtype=bool)
    before = reached
    rows: list[dict[str, Any]] = []
    skipped = ""
    for name, kinds in STEPS:
        there = np.isin(sessions, events.session[_step(events, kinds)])
        if not there.any():
            skipped += f" Nobody {name}, or it is not in the data."
            continue
        before, reached = reached, reached & there
        of_first, of_last = share(reached, actors), share(reached[before], actors[before])
        if of_first is None or of_last is None:
            break
        rows.append(
            of_first.row(
                step=name,
                of_step_before=of_last.value,
                of_step_before_low=of_last.low,
                of_step_before_high=of_last.high,
            )
        )
    bought = np.isin(sessions, events.session[events.has(BUY)])
    outside = int((bought & ~reached).sum())
    note = f"{outside:,} more sessions bought without all the steps before." if outside >= least else ""
    rows = shown(rows, least)
    for row in rows:
        if row["hidden"]:
            row.update(of_step_before=None, of_step_before_low=None, of_step_before_high=None)
    about = "Share of sessions that took this step and all before it, and of those that took the one before."
    return Table("funnel", "From answer to purchase", about, rows, (note + skipped).strip())


def per_session(events: Events, least: int, seed: int) -> Table:
    """Means by session, and of sessions by shopper."""
    rows = []
    sessions = np.unique(events.session)
    first = np.unique(events.session, return_index=True)[1]
    actor_of = events.actor[first]
    visits = np.bincount(actor_of, minlength=int(events.actor.max()) + 1).astype(float)
    there = visits > 0
    for name, which in (
        ("answers", events.has(ANSWER)),
        ("clicks", events.has(CLICK)),
        ("carts", events.has(CART)),
        ("purchases", events.has(BUY)),
    ):
        if which.any():
            totals = np.bincount(events.actor[which], minlength=len(visits)).astype(float)
            value, low, high = mean(totals[there], visits[there], seed)
            rows.append(
                _mean_row(
                    f"{name} a session", value, low, high, int(totals.sum()), len(sessions), there, totals
                )
            )
    value, low, high = mean(visits[there], np.ones(int(there.sum())), seed)
    rows.append(
        _mean_row("sessions a shopper", value, low, high, len(sessions), int(there.sum()), there, visits)
    )
    return Table("means", "On average", "Means, resampled by shopper.", shown(rows, least), unit="")


def _mean_row(
    figure: str, value: float, low: float, high: float, count: int, of: int, there: Mask, totals: Any
) -> dict[str, Any]:
    return {
        "figure": figure,
        "value": value,
        "low": low,
        "high": high,
        "count": count,
        "of": of,
        "people": int(there.sum()),
        "counted_people": int(np.count_nonzero(totals)),
    }


def _sessions(events: Events) -> tuple[Ints, Ints]:
    """The sessions, and the actor of each."""
    sessions, first = np.unique(events.session, return_index=True)
    return sessions, events.actor[first]


def _step(events: Events, kinds: tuple[int, ...]) -> Mask:
    """Events of a step; an answer without products is none."""
    return np.asarray(events.has(*kinds) & ~(events.has(ANSWER) & (events.results == 0)))
