"""Events in columns of numbers: what every analysis works on.

Shoppers, sessions, receipts and event ids are numbers from the moment they are read; their names are not
kept. Names of products and texts of queries are, once each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

ANSWER, VIEW, CLICK, CART, BUY, COMMENT, SHARE = range(7)
KINDS = ("answer", "view", "click", "cart", "buy", "comment", "share")
RECEIPT_STATES = ("none", "known", "expired", "unknown")

MINUTE_US = 60 * 1_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
SESSION_GAP_US = 30 * MINUTE_US


@dataclass(frozen=True)
class Names:
    """What the numbers in the columns stand for."""

    products: list[str]
    queries: list[str]
    tiers: list[str]
    priorities: list[str]
    experiments: list[str]


@dataclass(frozen=True)
class Events:
    """One entry for each event in every column; -1: not known.

    kind: index into KINDS. actor: the shopper, or the session where no shopper is named. named: the actor is
    a shopper. answer: the receipt. results: how many products an answer had. at_us: microseconds since the
    Unix epoch; committed_us: when it was recorded. known_until_us: from when on the shopper has another
    pseudonym; a very late time where the names do not change. state: index into RECEIPT_STATES.
    server_clock: the caller's clock could not be believed.
    """

    kind: Ints
    actor: Ints
    named: Mask
    session: Ints
    answer: Ints
    product: Ints
    position: Ints
    results: Ints
    at_us: Ints
    committed_us: Ints
    known_until_us: Ints
    query: Ints
    tier: Ints
    priority: Ints
    experiment: Ints
    state: Ints
    event_id: NDArray[np.uint64]
    server_clock: Mask
    names: Names

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, which: Mask | Ints) -> Events:
        """Those events alone, or in that order."""
        return self.with_columns(
            **{one.name: getattr(self, one.name)[which] for one in fields(self) if one.name != "names"}
        )

    def with_columns(self, **columns: Any) -> Events:
        """The same events with other values."""
        return replace(self, **columns)

    def has(self, *kinds: int) -> Mask:
        """Which events are of one of the kinds."""
        return np.isin(self.kind, kinds)

    def people(self) -> int:
        """How many actors there are."""
        return len(np.unique(self.actor))


def numbered(values: NDArray[Any]) -> Ints:
    """The same values get the same number, from 0 up."""
    return np.asarray(np.unique(values, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def people_in(groups: Ints, actors: Ints, size: int) -> Ints:
    """How many different actors each group has; int64 [size]."""
    if not len(groups):
        return np.zeros(size, dtype=np.int64)
    pairs = np.unique(np.stack([groups, actors]), axis=1)
    return np.bincount(pairs[0], minlength=size).astype(np.int64)


def with_sessions(events: Events) -> Events:
    """Events in the order of time within each session; where none is named, half an hour of silence ends one.

    An event that names no answer belongs to the one made of its session and query.
    """
    order = np.lexsort((events.at_us, events.actor))
    events = events.take(order)
    gap = np.ones(len(events), dtype=bool)
    gap[1:] = (np.diff(events.actor) != 0) | (np.diff(events.at_us) > SESSION_GAP_US)
    derived = np.cumsum(gap) + int(events.session.max(initial=0)) + 1
    session = numbered(np.where(events.session >= 0, events.session, derived))
    highest = int(events.answer.max(initial=0)) + 1
    texts = len(events.names.queries) + 1
    answer = np.where(events.answer >= 0, events.answer, highest + session * texts + events.query + 1)
    return events.with_columns(session=session, answer=numbered(answer))
