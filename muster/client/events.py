"""Catalogue events, with the identifiers that make sending them again safe."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

from muster.client.errors import InvalidRequest
from muster.v1 import catalogue_pb2

EVENTS_MAX = 1_000
"""Events of one batch."""


def new_event_id() -> str:
    """A fresh identifier (a random UUID)."""
    return str(uuid.uuid4())


def content_event_id(*parts: bytes | str) -> str:
    """The identifier of this content: the same parts give the same one, so a repeated load is harmless."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:40]


def upsert(product: catalogue_pb2.Product, *, event_id: str = "") -> catalogue_pb2.Event:
    """Insert a product, or replace it as a whole. event_id: empty for a fresh one."""
    return catalogue_pb2.Event(event_id=event_id or new_event_id(), upsert=product)


def patch(
    product_id: str,
    *,
    price: float | None = None,
    stock: int | None = None,
    rating: float | None = None,
    rating_count: int | None = None,
    popularity: float | None = None,
    event_id: str = "",
) -> catalogue_pb2.Event:
    """Change live columns; None keeps the value. Units as in `Product`. event_id: empty for a fresh one.

    Raises: InvalidRequest if a value cannot be sent at all, or none is given.
    """
    values = {
        "price": price,
        "stock": stock,
        "rating": rating,
        "rating_count": rating_count,
        "popularity": popularity,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise InvalidRequest("a patch needs at least one value", [("patch", "give a price, a stock, ...")])
    try:
        change = catalogue_pb2.Patch(product_id=product_id, **given)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the patch cannot be sent: {error}", [("patch", str(error))]) from error
    return catalogue_pb2.Event(event_id=event_id or new_event_id(), patch=change)


def delete(product_id: str, *, event_id: str = "") -> catalogue_pb2.Event:
    """Remove a product. event_id: empty for a fresh one."""
    try:
        change = catalogue_pb2.Delete(product_id=product_id)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the deletion cannot be sent: {error}", [("delete", str(error))]) from error
    return catalogue_pb2.Event(event_id=event_id or new_event_id(), delete=change)


def apply_request(
    events: catalogue_pb2.Event | Iterable[catalogue_pb2.Event],
) -> catalogue_pb2.ApplyRequest:
    """One batch. Events without an identifier are given one in place, so that the caller can send them again.

    Raises: InvalidRequest if there is no event, or more than EVENTS_MAX.
    """
    batch = [events] if isinstance(events, catalogue_pb2.Event) else list(events)
    if not 1 <= len(batch) <= EVENTS_MAX:
        text = f"a batch has 1 to {EVENTS_MAX:,} events, not {len(batch):,}"
        raise InvalidRequest(text, [("events", text)])
    for event in batch:
        if not event.event_id:
            event.event_id = new_event_id()
    return catalogue_pb2.ApplyRequest(events=batch)
