"""What is left out of an analysis, or corrected, and why: each event for the first reason that holds.

An actor is a shopper, or a session where no shopper is named. Floods follow the rule of exports
(`muster.privacy.floods`); views and answers have bounds of their own by the hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from muster.insight.events import ANSWER, DAY_US, HOUR_US, MINUTE_US, VIEW, Events, Ints, Mask
from muster.privacy.floods import FloodRule, bursts, outliers

REASONS = {
    "unknown_kind": "of a kind that is no feedback",
    "no_time": "without a time that can be read",
    "unnamed": "naming neither shopper nor session",
    "duplicate": "told twice",
    "unknown_receipt": "on answers that were never given",
    "expired_receipt": "on answers of too long ago",
    "wrong_clock": "at a time that cannot be, and without another one",
    "flood": "of those who act faster than people do",
}
_EARLIEST_US = 946_684_800_000_000  # 2000-01-01: no shop kept this log earlier


@dataclass(frozen=True)
class Bounds:
    """What a person does at most; each 0: no bound. Answers and views count for their own bound alone."""

    acts: FloodRule = field(default_factory=FloodRule)
    answers_per_hour_max: int = 300
    views_per_hour_max: int = 20_000


@dataclass
class LeftOut:
    """events: left out, by reason. floods: actors left out; None: some, too few to be told.

    server_clock: events that are kept by the time of their commit, because the caller's cannot be.
    """

    events: dict[str, int] = field(default_factory=dict)
    floods: int | None = 0
    server_clock: int = 0


def cleaned(events: Events, bounds: Bounds, now_us: int) -> tuple[Events, LeftOut]:
    """What can be believed, and what cannot. now_us: nothing happened later, give or take a day."""
    left = LeftOut()

    def drop(reason: str, bad: Mask) -> None:
        nonlocal events
        if bad.any():
            left.events[reason] = int(bad.sum())
            events = events.take(~bad)

    drop("duplicate", _duplicates(events))
    fast = _fast(events, bounds)
    left.floods = len(fast)
    drop("flood", np.isin(events.actor, fast))
    drop("unknown_receipt", _unknown(events))
    drop("expired_receipt", events.state == 2)
    events = _corrected(events)
    left.server_clock = int(events.server_clock.sum())
    drop("wrong_clock", (events.at_us < _EARLIEST_US) | (events.at_us > now_us + DAY_US))
    return events, left


def _duplicates(events: Events) -> Mask:
    """All but the first of those with one event id, or, without ids, with the same content."""
    again = np.zeros(len(events), dtype=bool)
    named = np.flatnonzero(events.event_id != 0)
    first = np.unique(events.event_id[named], return_index=True)[1]
    again[np.delete(named, first)] = True
    without = np.flatnonzero(events.event_id == 0)
    columns = (
        events.kind,
        events.product,
        events.answer,
        events.actor,
        events.at_us,
        events.query,
        events.position,
    )
    rows = [column[without] for column in columns]
    order = np.lexsort(rows)
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for row in rows:
        same &= np.diff(row[order]) == 0
    again[without[order[1:][same]]] = True
    return again


def _unknown(events: Events) -> Mask:
    """Marked by the service; or, where answers are in the data, with a receipt that none of them has
    and that no service vouched for.
    """
    unknown = events.state == 3
    answers = events.has(ANSWER) & (events.answer >= 0)
    if answers.any():
        inside = (events.at_us >= events.at_us[answers].min()) & (events.at_us <= events.at_us[answers].max())
        given = np.isin(events.answer, events.answer[answers])
        unknown |= (events.answer >= 0) & ~given & inside & (events.state != 1)
    return np.asarray(unknown)


def _corrected(events: Events) -> Events:
    """The commit's time where the caller's is before its answer, or a day from the commit."""
    recorded = events.committed_us > 0
    off = (events.at_us < events.committed_us - DAY_US) | (events.at_us > events.committed_us + MINUTE_US)
    answers = events.has(ANSWER) & (events.answer >= 0)
    if answers.any():
        given_us = np.zeros(int(events.answer.max()) + 1, dtype=np.int64)
        given_us[events.answer[answers]] = events.at_us[answers]
        off |= (events.answer >= 0) & (events.at_us < given_us[events.answer] - MINUTE_US)
    wrong = recorded & off
    return events.with_columns(
        at_us=np.where(wrong, events.committed_us, events.at_us), server_clock=events.server_clock | wrong
    )


def _fast(events: Events, bounds: Bounds) -> Ints:
    """Actors who did more than people do."""
    clock = np.where(events.committed_us > 0, events.committed_us, events.at_us)
    acts, answers, views = ~events.has(ANSWER, VIEW), events.has(ANSWER), events.has(VIEW)
    found = outliers(events.actor[acts], clock[acts], events.answer[acts], bounds.acts)
    return np.unique(
        np.concatenate(
            [
                np.fromiter(found, dtype=np.int64),
                bursts(events.actor[answers], clock[answers], HOUR_US, bounds.answers_per_hour_max),
                bursts(events.actor[views], clock[views], HOUR_US, bounds.views_per_hour_max),
            ]
        )
    )
