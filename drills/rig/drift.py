"""Demand that moves, and what replicas measure of it.

Moved demand asks for the same things in words that nobody used before: each word is written backwards. So
what is relevant to a moved query is known, its words are the rarest there are, and once products use them
they can be served again.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drills.rig.load import OK, receipt_fields
from drills.rig.shop import Query
from muster.client import AsyncClient, MusterError
from muster.v1 import catalogue_pb2

_WORD = re.compile(r"[^\W\d_]+")
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$")
MOVED = "moved-"
"""Begins the identifiers of products that use the moved words."""


def backwards(text: str) -> str:
    """The text with each word of letters written backwards."""
    return _WORD.sub(lambda word: word.group()[::-1].lower(), text)


def moved_product(product: catalogue_pb2.Product, price_factor: float = 3.0) -> catalogue_pb2.Product:
    """The product as one that is sold in moved words, on shelves of their own, at another price."""
    moved = catalogue_pb2.Product()
    moved.CopyFrom(product)
    moved.product_id = MOVED + product.product_id
    for name in ("title", "brand", "description"):
        setattr(moved, name, backwards(getattr(product, name)))
    moved.bullets[:] = [backwards(text) for text in product.bullets]
    moved.category[:] = [backwards(name) for name in product.category]
    if product.HasField("price"):
        moved.price = product.price * price_factor
    return moved


def moved_query(query: Query) -> Query:
    """The query in moved words; what is relevant to it are the products in moved words."""
    return Query(
        backwards(query.text), query.origin, {MOVED + name: gain for name, gain in query.gains.items()}
    )


class Demand:
    """What is asked: of `moved` a share, spread evenly; of `usual` the rest. The share may be changed while
    it is read."""

    def __init__(self, usual: Sequence[Query], moved: Sequence[Query]) -> None:
        self.share = 0.0
        self._usual = usual
        self._moved = moved

    def query(self, index: int) -> Query:
        """The query of this number."""
        moved_before = int(index * self.share)
        # Each kind in its own turn, or a share would meet the same few queries again and again.
        if int((index + 1) * self.share) > moved_before:
            return self._moved[moved_before % len(self._moved)]
        return self._usual[(index - moved_before) % len(self._usual)]

    def sample(self, count: int) -> list[Query]:
        """So many queries as they are asked now."""
        return [self.query(index) for index in range(count)]


class DemandReads:
    """Searches as `Demand` has them, through the client."""

    def __init__(self, addresses: Sequence[str], demand: Demand, *, deadline_ms: float) -> None:
        self._addresses = list(addresses)
        self._demand = demand
        self._deadline_ms = deadline_ms
        self._client: AsyncClient | None = None

    async def open(self) -> None:
        """Makes the client; it connects with the first call."""
        self._client = AsyncClient(self._addresses)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search; the status of a failure is the name of the client's error."""
        assert self._client is not None
        text = self._demand.query(index).text
        try:
            answer = await self._client.search(text, deadline_ms=self._deadline_ms)
        except MusterError as error:
            return type(error).__name__, {"detail": str(error)}
        return OK, receipt_fields(answer.receipt)

    async def close(self) -> None:
        """Closes the client."""
        assert self._client is not None
        await self._client.close()


def read_samples(text: str) -> dict[str, dict[str, float]]:
    """Samples of the Prometheus text format: name to labels, as they stand, to value."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is not None:
            name, labels, value = sample.groups()
            found.setdefault(name, {})[labels or ""] = float(value)
    return found


def scraped(addresses: Iterable[str]) -> Sequence[Mapping[str, Mapping[str, float]]]:
    """What /metrics of each address says. Raises: OSError where one does not answer."""
    pages = []
    for address in addresses:
        # The address is the drill's own, on loopback.
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5.0) as page:
            pages.append(read_samples(page.read().decode("utf-8")))
    return pages


def highest_index(pages: Sequence[Mapping[str, Mapping[str, float]]]) -> float | None:
    """The highest stability index of any distribution on any replica; None: none tells one yet."""
    return max((value for page in pages for value in page.get("muster_drift", {}).values()), default=None)


def referenced(pages: Sequence[Mapping[str, Mapping[str, float]]]) -> bool:
    """Whether every replica has a reference."""
    counts = [max(page.get("muster_drift_reference_answers", {"": 0.0}).values()) for page in pages]
    return bool(counts) and min(counts) > 0
