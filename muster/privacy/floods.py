"""Finds those who give feedback faster than people do.

The rule: an actor is a shopper, or a session where no shopper is named. All feedback of an actor is left
out that has more than `per_minute_max` events within some 60 seconds, or more than `per_day_max` within
some 24 hours, or more than `per_receipt_max` on one answer, by the clock of the server. Views are not
counted: a page shows many products at once. Feedback that names neither shopper nor session cannot be told
apart: it is kept. Exports of feedback and insight follow the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_MINUTE_US = 60 * 1_000_000
_DAY_US = 24 * 60 * _MINUTE_US
NOBODY = NO_RECEIPT = -1


@dataclass(frozen=True)
class FloodRule:
    """What a person does at most. Each 0: no bound."""

    per_minute_max: int = 60
    per_day_max: int = 2_000
    per_receipt_max: int = 200


def actor_of(shopper: str, session: str) -> str:
    """Whom an event counts for; empty: nobody that could be told apart."""
    return shopper or session


def outliers(actors: Ints, times_us: Ints, receipts: Ints, rule: FloodRule) -> Mapping[int, str]:
    """Actors to leave out, and the first bound that each is above.

    One entry an event, views left out beforehand, int64 [events] each. actors: NOBODY counts for none;
    times_us: of the commit, in any order; receipts: NO_RECEIPT where the event names no answer.
    """
    somebody = actors != NOBODY
    actors, times_us, receipts = actors[somebody], times_us[somebody], receipts[somebody]
    on_answer = receipts != NO_RECEIPT
    found: dict[int, str] = {}
    for most, fast, what in (
        (rule.per_minute_max, bursts(actors, times_us, _MINUTE_US, rule.per_minute_max), "events a minute"),
        (rule.per_day_max, bursts(actors, times_us, _DAY_US, rule.per_day_max), "events a day"),
        (
            rule.per_receipt_max,
            _repeated(actors[on_answer], receipts[on_answer], rule.per_receipt_max),
            "events on one answer",
        ),
    ):
        for actor in fast.tolist():
            found.setdefault(actor, f"more than {most:,} {what}")
    return found


def bursts(actors: Ints, times_us: Ints, length_us: int, most: int) -> Ints:
    """Actors with more than `most` events within less than `length_us`, each once; none where most is 0."""
    if not most or len(actors) <= most:
        return np.empty(0, dtype=np.int64)
    order = np.lexsort((times_us, actors))
    actors, times_us = actors[order], times_us[order]
    close = (actors[most:] == actors[:-most]) & (times_us[most:] - times_us[:-most] < length_us)
    return np.unique(actors[most:][close])


def _repeated(actors: Ints, receipts: Ints, most: int) -> Ints:
    if not most or len(actors) <= most:
        return np.empty(0, dtype=np.int64)
    pairs, counts = np.unique(np.stack([actors, receipts]), axis=1, return_counts=True)
    return np.unique(pairs[0, counts > most])
