"""Which pairs of query and product a person should judge next, and why.

What speaks for a pair is what people did with it beside what they do at its positions: a product that is
looked at in the first place and passed over by all is as telling as one that is sought out in the tenth.
Nobody is named: a query is in the queue only if enough people asked it, and what was written is counted, not
quoted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muster.insight.errors import InsightError
from muster.insight.events import CLICK, COMMENT, VIEW, Events, Ints, people_in
from muster.privacy.scrub import scrub

COMMENTED, PASSED_OVER, SOUGHT_OUT, CONTRADICTED = "commented", "passed over", "sought out", "contradicted"
POSITIONS = 50
FALSE_SHARE = 0.05
"""Of those passed over or sought out, at most so many by chance, on average (Benjamini & Hochberg 1995)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One pair to be judged. query: as people asked it, in small letters. reasons: see above, in that order.

    people: that the product was shown to for this query; clicked: how many of them clicked; expected: how
    many would have, had they done as with other products at these positions. judged: the gain that it has
    now; None: none.
    """

    query: str
    product_id: str
    reasons: tuple[str, ...]
    people: int
    clicked: int
    expected: float
    judged: float | None = None

    @property
    def weight(self) -> float:
        """How many people's answers a judgement would concern."""
        return abs(self.clicked - self.expected) + (COMMENTED in self.reasons)


def queue(
    events: Events,
    *,
    judged: Mapping[str, Mapping[str, float]] | None = None,
    least: int = 10,
    limit: int = 200,
) -> list[Pair]:
    """The pairs that matter to most people first.

    events: cleaned, with an answer each. judged: query text, in small letters, to (product id to gain): pairs
    in it come back only where people contradict it. least: people that must have asked a query, and been
    shown a pair. Raises: InsightError where nothing tells what was shown.
    """
    query = _query_of_answers(events)[events.answer]
    told = (query >= 0) & (events.product >= 0)
    shown = events.has(VIEW) & told & (events.position > 0) & (events.position <= POSITIONS)
    if not shown.any():
        raise InsightError(
            "no event tells which product was shown where for which query: "
            "record views with position and query"
        )
    products = len(events.names.products)
    pair = query * products + events.product
    # A person counts once for each pair: who comes back to it every day is one opinion.
    key = pair * (int(events.actor.max()) + 1) + events.actor
    first = np.flatnonzero(shown)
    first = first[np.unique(key[first], return_index=True)[1]]
    clicked = np.isin(key[first], key[events.has(CLICK) & told])
    position = events.position[first]
    rate = np.bincount(position, clicked, POSITIONS + 1) / np.maximum(
        np.bincount(position, minlength=POSITIONS + 1), 1
    )
    pairs, place = np.unique(pair[first], return_inverse=True)
    people = np.bincount(place)
    counts = np.bincount(place, clicked).astype(np.int64)
    expected = np.asarray(np.bincount(place, rate[position]), dtype=np.float64)
    asked = people_in(query[told], events.actor[told], len(events.names.queries))
    commented = set(pair[events.has(COMMENT) & told].tolist())
    away = _far_from(counts, expected, people >= least)

    found = []
    for one in sorted(set(pairs.tolist()) | commented):
        number, product = divmod(one, products)
        if asked[number] < least:
            continue
        at = int(np.searchsorted(pairs, one))
        seen = at < len(pairs) and pairs[at] == one
        enough = seen and people[at] >= least
        reasons = [COMMENTED] if one in commented else []
        if enough and away[at]:
            reasons.append(PASSED_OVER if counts[at] < expected[at] else SOUGHT_OUT)
        text, product_id = events.names.queries[number], events.names.products[product]
        gains = (judged or {}).get(text, {})
        gain = gains.get(product_id)
        if gain is not None:
            if not _contradicts(reasons, gain, max(gains.values())):
                continue
            reasons.append(CONTRADICTED)
        if reasons:
            of = (int(people[at]), int(counts[at]), float(expected[at])) if enough else (0, 0, 0.0)
            found.append(Pair(scrub(text).text, product_id, tuple(reasons), *of, judged=gain))
    return sorted(found, key=lambda one: (-one.weight, one.query, one.product_id))[:limit]


def _query_of_answers(events: Events) -> Ints:
    """For each answer the query that any of its events names; -1: none does."""
    found = np.full(int(events.answer.max(initial=-1)) + 1, -1, dtype=np.int64)
    np.maximum.at(found, events.answer, events.query)
    return found


def _contradicts(reasons: list[str], gain: float, best: float) -> bool:
    return (SOUGHT_OUT in reasons and gain <= 0) or (PASSED_OVER in reasons and 0 < best <= 2 * gain)


def _far_from(counts: Ints, expected: Floats, tested: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which counts are further from what was expected than chance brings, among those tested.

    Two-sided Poisson tails: wider than those of the sum of unequal coins that a count is, so never too bold.
    """
    chance = np.array(
        [min(1.0, 2 * _tail(int(count), float(mean))) if test else 1.0
         for count, mean, test in zip(counts, expected, tested, strict=True)]
    )  # fmt: skip
    order = np.argsort(chance)
    allowed = FALSE_SHARE * np.arange(1, len(chance) + 1) / max(int(tested.sum()), 1)
    passed = np.flatnonzero(chance[order] <= allowed)
    far = np.zeros(len(chance), dtype=bool)
    if len(passed):
        far[order[: passed[-1] + 1]] = True
    return far & tested


def _tail(count: int, mean: float) -> float:
    """The chance that a Poisson count is as far on its side of the mean."""
    if mean <= 0:
        return 1.0 if count == 0 else 0.0
    below = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))
    if count < mean:
        return min(below, 1.0)
    return max(1.0 - below + math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)), 0.0)
