"""A search as the console makes it: once with the deadline that was chosen, once with a longer one, and
what moved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.client import AsyncClient, search_filter
from muster.commands.output import plain
from muster.explanation import TASTES

DEADLINE_MS_MIN = 2.0
DEADLINE_MS_MAX = 200.0
LONGER_FACTOR = 4.0
FACETS = ("brand", "category")


@dataclass(frozen=True)
class Wish:
    """What is searched for. deadline_ms: above 0."""

    query: str
    deadline_ms: float
    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    price_min: float | None = None
    price_max: float | None = None
    in_stock: bool = False
    page_size: int = 10
    shopper: str = ""


@dataclass(frozen=True)
class Found:
    """An answer as JSON values. took_ms: as the caller saw it. deadline_ms: what it was asked with."""

    answer: Mapping[str, Any]
    took_ms: float
    deadline_ms: float

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Ranked products, best first."""
        return list(self.answer["results"])

    @property
    def receipt(self) -> Mapping[str, Any]:
        """What was done."""
        receipt: Mapping[str, Any] = self.answer["receipt"]
        return receipt


@dataclass(frozen=True)
class Move:
    """A product's places, from 1, in two answers; None: it is not among the results."""

    product_id: str
    title: str
    before: int | None
    after: int | None

    def told(self) -> str:
        """The move in words."""
        if self.before is None:
            return f"would come in at place {self.after}"
        if self.after is None:
            return f"would leave place {self.before}"
        if self.before == self.after:
            return f"would stay at place {self.after}"
        way = "rise" if self.after < self.before else "fall"
        return f"would {way} from place {self.before} to {self.after}"


@dataclass(frozen=True)
class Comparison:
    """Two answers to one query. moves: in the order of the longer one, those that would leave last."""

    moves: tuple[Move, ...] = field(default=())

    @property
    def stay(self) -> int:
        """Products whose place is the same."""
        return sum(move.before == move.after for move in self.moves)

    @property
    def come(self) -> int:
        """Products that only the longer deadline shows."""
        return sum(move.before is None for move in self.moves)

    def told(self) -> str:
        """What changes, in one sentence."""
        shown = sum(move.after is not None for move in self.moves)
        if self.stay == len(self.moves):
            return "A longer deadline would change nothing on this page."
        new = f", {self.come} would be new" if self.come else ""
        return f"With a longer deadline {self.stay} of {shown} would keep their place{new}."


def compare(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Comparison:
    """What a second answer changes of the first; results as JSON values."""
    places = {result["product_id"]: place for place, result in enumerate(before, start=1)}
    moves = [
        Move(result["product_id"], result["title"], places.get(result["product_id"]), place)
        for place, result in enumerate(after, start=1)
    ]
    kept = {move.product_id for move in moves}
    moves += [
        Move(result["product_id"], result["title"], place, None)
        for place, result in enumerate(before, start=1)
        if result["product_id"] not in kept
    ]
    return Comparison(tuple(moves))


async def ask(client: AsyncClient, wish: Wish, *, deadline_ms: float, explain: bool = True) -> Found:
    """One search. Raises: MusterError."""
    conditions = search_filter(
        brands=wish.brands,
        categories=wish.categories,
        price_min=wish.price_min,
        price_max=wish.price_max,
        in_stock=wish.in_stock,
    )
    started_s = time.perf_counter()
    answer = await client.search(
        wish.query,
        deadline_ms=deadline_ms,
        filter=conditions if conditions.ByteSize() else None,
        page_size=wish.page_size,
        facets=FACETS,
        explain=explain,
        shopper_id=wish.shopper,
    )
    return Found(plain(answer), (time.perf_counter() - started_s) * 1000, deadline_ms)


def longer_deadline_ms(deadline_ms: float) -> float:
    """What the second search is given: enough for the best plan of an idle service."""
    return max(DEADLINE_MS_MAX, LONGER_FACTOR * deadline_ms)


def deadline_of(position: float) -> float:
    """Milliseconds of a place on the slider, 0 to 1, on a logarithmic scale, in two digits."""
    value = DEADLINE_MS_MIN * (DEADLINE_MS_MAX / DEADLINE_MS_MIN) ** min(1.0, max(0.0, position))
    digits = 1 - math.floor(math.log10(value))
    return round(value, digits) if digits > 0 else float(round(value, digits))


def position_of(deadline_ms: float) -> float:
    """The place of a deadline on the slider, 0 to 1."""
    inside = min(DEADLINE_MS_MAX, max(DEADLINE_MS_MIN, deadline_ms))
    return math.log(inside / DEADLINE_MS_MIN) / math.log(DEADLINE_MS_MAX / DEADLINE_MS_MIN)


_REASONS = {
    "best": "It is the best that the bundle can do, in full.",
    "deadline": "The deadline left no room for a better plan.",
    "load": "A better plan would have fitted, but for the work that was waiting.",
    "dependency": "A part that a better plan needs was not there.",
    "priority": "Under load, requests of a higher priority got the better plan.",
}


def receipt_words(found: Found) -> str:
    """The receipt for people."""
    receipt = found.receipt
    depth = f" over the best {receipt['depth']}" if receipt["depth"] else ""
    text = (
        f"Answered in {found.took_ms:.1f} of {found.deadline_ms:g} ms by tier {receipt['tier']}{depth},"
        f" out of {receipt['candidates']} candidates; worth {receipt['expected_ndcg']:.0%} of the best plan."
        f" {_REASONS.get(str(receipt['reason']), '')}"
    )
    if receipt["query_truncated"]:
        text += " The query was longer than the models read, and was cut."
    if receipt.get("taste") in TASTES:
        text += f" {TASTES[receipt['taste']].capitalize()}."
    return text
