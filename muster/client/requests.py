"""Requests from plain arguments, and the time budget every call carries."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from muster.client.errors import InvalidRequest
from muster.v1 import catalogue_pb2, ranking_pb2

DEADLINE_METADATA = "muster-deadline-unix-us"

Priority: TypeAlias = Literal["critical", "default", "sheddable"]
"""How much a request's quality is worth beside that of others under load; see `Priority` in the contract."""

History: TypeAlias = Iterable[str | ranking_pb2.HistoryItem]
"""What a shopper did, oldest first; a name alone: the product was taken."""

_PRIORITIES: Mapping[str, ranking_pb2.Priority.ValueType] = {
    "critical": ranking_pb2.PRIORITY_CRITICAL,
    "default": ranking_pb2.PRIORITY_DEFAULT,
    "sheddable": ranking_pb2.PRIORITY_SHEDDABLE,
}


class CallOptions(TypedDict):
    """What a stub is called with beside the request. timeout: seconds."""

    timeout: float
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Deadline:
    """One moment, on both clocks: the monotonic one to wait by, the wall clock to tell the server."""

    budget_ms: float
    monotonic_s: float
    unix_us: int

    @classmethod
    def after(cls, budget_ms: float) -> Deadline:
        """The moment `budget_ms` from now. Raises: InvalidRequest unless it is finite and above 0."""
        if not 0 < budget_ms < math.inf:
            text = f"a deadline is a finite number of milliseconds above 0, not {budget_ms}"
            raise InvalidRequest(text, [("deadline_ms", text)])
        return cls(
            budget_ms,
            time.monotonic() + budget_ms / 1000,
            time.time_ns() // 1000 + int(budget_ms * 1000),
        )

    def left_s(self) -> float:
        """Seconds left; not above 0 once it has passed."""
        return self.monotonic_s - time.monotonic()

    def of_call(self, ends_s: float | None = None) -> CallOptions:
        """Time-out and metadata of one sending, both counted to its own end: a connection may take its time,
        and the metadata tell the server the true remainder.

        ends_s: monotonic seconds, not after the deadline; None: the deadline.
        """
        early_s = 0.0 if ends_s is None else max(0.0, self.monotonic_s - ends_s)
        return {
            "timeout": max(0.0, self.left_s() - early_s),
            "metadata": ((DEADLINE_METADATA, str(self.unix_us - int(early_s * 1e6))),),
        }


def search_filter(
    *,
    brands: Iterable[str] = (),
    categories: Iterable[str] = (),
    price_min: float | None = None,
    price_max: float | None = None,
    in_stock: bool = False,
    attributes: Mapping[str, Sequence[str]] | None = None,
) -> ranking_pb2.Filter:
    """What a product must satisfy; see `Filter` in the contract.

    attributes: name to accepted values.
    Raises: InvalidRequest if a value cannot be sent at all.
    """
    try:
        found = ranking_pb2.Filter(brands=brands, categories=categories, in_stock=in_stock)
        if price_min is not None:
            found.price_min = price_min
        if price_max is not None:
            found.price_max = price_max
        for name, values in (attributes or {}).items():
            found.attributes.add(name=name, values=values)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the filter cannot be sent: {error}", [("filter", str(error))]) from error
    return found


def search_request(
    query: str,
    *,
    filter: ranking_pb2.Filter | None = None,
    page_size: int = 0,
    offset: int = 0,
    facets: Iterable[str] = (),
    min_sequence: int = 0,
    explain: bool = False,
    priority: Priority | None = None,
    shopper_id: str = "",
    session_id: str = "",
    history: History = (),
) -> ranking_pb2.SearchRequest:
    """A search; the server checks the ranges. Raises: InvalidRequest if a value cannot be sent at all."""
    class_ = _priority(priority)
    try:
        return ranking_pb2.SearchRequest(
            query=query,
            filter=filter,
            page_size=page_size,
            offset=offset,
            facets=facets,
            min_sequence=min_sequence,
            explain=explain,
            priority=class_,
            shopper_id=shopper_id,
            session_id=session_id,
            history=_items(history),
        )
    except (TypeError, ValueError) as error:
        raise _unsendable(
            error,
            query=query,
            page_size=page_size,
            offset=offset,
            shopper_id=shopper_id,
            session_id=session_id,
        ) from error


def rerank_request(
    query: str,
    product_ids: Iterable[str],
    *,
    page_size: int = 0,
    min_sequence: int = 0,
    explain: bool = False,
    priority: Priority | None = None,
) -> ranking_pb2.RerankRequest:
    """A re-ranking. Raises: as `search_request`."""
    class_ = _priority(priority)
    try:
        return ranking_pb2.RerankRequest(
            query=query,
            product_ids=product_ids,
            page_size=page_size,
            min_sequence=min_sequence,
            explain=explain,
            priority=class_,
        )
    except (TypeError, ValueError) as error:
        raise _unsendable(error, query=query, page_size=page_size) from error


def recommend_request(
    history: History = (),
    *,
    shopper_id: str = "",
    session_id: str = "",
    filter: ranking_pb2.Filter | None = None,
    page_size: int = 0,
    min_sequence: int = 0,
    explain: bool = False,
    priority: Priority | None = None,
    diversity: float = 0.0,
    repeats: bool = False,
) -> ranking_pb2.RecommendRequest:
    """A request for recommendations. Raises: as `search_request`."""
    class_ = _priority(priority)
    try:
        return ranking_pb2.RecommendRequest(
            shopper_id=shopper_id,
            session_id=session_id,
            history=_items(history),
            filter=filter,
            page_size=page_size,
            min_sequence=min_sequence,
            explain=explain,
            priority=class_,
            diversity=diversity,
            repeats=repeats,
        )
    except (TypeError, ValueError) as error:
        raise _unsendable(error, shopper_id=shopper_id, session_id=session_id, page_size=page_size) from error


def get_request(product_id: str, *, min_sequence: int = 0) -> catalogue_pb2.GetRequest:
    """A read of one product. Raises: as `search_request`."""
    try:
        return catalogue_pb2.GetRequest(product_id=product_id, min_sequence=min_sequence)
    except (TypeError, ValueError) as error:
        raise _unsendable(error, product_id=product_id, min_sequence=min_sequence) from error


def _items(history: History) -> list[ranking_pb2.HistoryItem]:
    return [ranking_pb2.HistoryItem(product_id=item) if isinstance(item, str) else item for item in history]


def _priority(name: str | None) -> ranking_pb2.Priority.ValueType:
    if name is None:
        return ranking_pb2.PRIORITY_UNSPECIFIED
    found = _PRIORITIES.get(name)
    if found is None:
        text = f"{name!r}; accepted: {', '.join(_PRIORITIES)}"
        raise InvalidRequest(f"the request cannot be sent: priority: {text}", [("priority", text)])
    return found


def _unsendable(error: Exception, **values: object) -> InvalidRequest:
    """protobuf does not name the field that it cannot take, so it is found here."""
    field = next((name for name, value in values.items() if not _sendable(value)), "request")
    return InvalidRequest(f"the request cannot be sent: {field}: {error}", [(field, str(error))])


def _sendable(value: object) -> bool:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True
    return isinstance(value, int) and 0 <= value < 2**32
