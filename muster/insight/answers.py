"""Answers and the products shown in them, put together from the events that name them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.insight.events import ANSWER, BUY, CLICK, VIEW, Events, Ints, Mask

POSITIONS = 20


@dataclass(frozen=True)
class Answers:
    """One entry for each answer. results: -1: not known. clicked, bought: anything of it."""

    actor: Ints
    at_us: Ints
    results: Ints
    query: Ints
    tier: Ints
    priority: Ints
    experiment: Ints
    clicked: Mask
    bought: Mask

    @property
    def with_products(self) -> Mask:
        """Answers that showed something, as far as is known."""
        return np.asarray(self.results != 0)


@dataclass(frozen=True)
class Shown:
    """One entry for each product that was shown at one of the first positions."""

    actor: Ints
    position: Ints
    clicked: Mask
    bought: Mask


def answers(events: Events) -> Answers | None:
    """All answers of which something was seen before any click: an answer itself, or a view. None: there are
    none, so that nobody knows what was not clicked.
    """
    seen = np.unique(events.answer[events.has(ANSWER, VIEW)])
    if not len(seen):
        return None
    inside = events.take(np.isin(events.answer, seen))
    place = np.searchsorted(seen, inside.answer)
    first = np.unique(place, return_index=True)[1]

    def known(column: Ints) -> Ints:
        found = np.full(len(seen), -1, dtype=np.int64)
        np.maximum.at(found, place, column)
        return found

    results = known(inside.results)
    # Whoever looks at a product was shown one, whatever the answer says.
    results[np.unique(place[~inside.has(ANSWER)])] = np.maximum(
        results[np.unique(place[~inside.has(ANSWER)])], 1
    )
    return Answers(
        inside.actor[first],
        inside.at_us[first],
        results,
        known(inside.query),
        known(inside.tier),
        known(inside.priority),
        known(inside.experiment),
        np.isin(seen, inside.answer[inside.has(CLICK)]),
        np.isin(seen, inside.answer[inside.has(BUY)]),
    )


def shown_products(events: Events) -> tuple[Shown | None, str]:
    """What was shown, and by what that is known: "views", or "answers" and how many products each had."""
    clicked, bought = events.has(CLICK), events.has(BUY)
    views = events.has(VIEW) & (events.position > 0) & (events.position <= POSITIONS) & (events.product >= 0)
    products = len(events.names.products) + 1
    if views.any():
        keys = events.answer * products + events.product
        shown, first = np.unique(np.where(views, keys, -1), return_index=True)
        shown, first = shown[shown >= 0], first[shown >= 0]
        return (
            Shown(
                events.actor[first],
                events.position[first],
                np.isin(shown, keys[clicked]),
                np.isin(shown, keys[bought]),
            ),
            "views",
        )
    whole = events.has(ANSWER) & (events.results > 0)
    if not whole.any():
        return None, ""
    rows = np.flatnonzero(whole)
    rows = rows[np.unique(events.answer[rows], return_index=True)[1]]
    counts = np.minimum(events.results[rows], POSITIONS)
    row = np.repeat(rows, counts)
    position = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    keys = events.answer * (POSITIONS + 1) + np.clip(events.position, 0, POSITIONS)
    good = (events.position > 0) & (events.position <= POSITIONS)
    mine = events.answer[row] * (POSITIONS + 1) + position
    return (
        Shown(
            events.actor[row],
            position,
            np.isin(mine, keys[clicked & good]),
            np.isin(mine, keys[bought & good]),
        ),
        "answers",
    )
