"""``muster.v1.CatalogueService``: appends to the log, reads products, streams committed events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

import rankcore
from muster.v1 import catalogue_pb2 as pb
from server import health
from server.admission import Budget
from server.audit import caller_of
from server.catalogue.errors import OutcomeUnknown
from server.catalogue.store import Appended
from server.errors import (
    BudgetSpent,
    CallerLeft,
    InvalidFields,
    NotThePrimary,
    ReplicaNotReady,
    UnknownProduct,
    WatchesFull,
)
from server.metrics import Metrics
from server.services import parse, serialize, stream, unary

_WATCH_EVENTS = 500
# A stream looks for new events this often; the caller's leaving is noticed as often.
_WATCH_WAIT_S = 0.02
_PRODUCT_ID_MAX = 128
# Kept of a caller's time for the way back, so that it hears why rather than nothing.
_REPLY_S = 0.002


class Writer(Protocol):
    """The part of the log that appends."""

    def append(self, events: Sequence[pb.Event | bytes], timeout_s: float) -> Appended:
        """Make the events durable, all or none."""


class Products(Protocol):
    """The part of the served generation that reads products."""

    def product(self, product_id: str) -> bytes | None:
        """The serialised Product with its live columns."""

    def contains(self, product_id: str) -> bool:
        """Whether the product is live."""


@dataclass(frozen=True)
class CatalogueLimits:
    """watch_streams_max: streams served at once. apply_deadline_us: budget of an Apply without a deadline."""

    watch_streams_max: int
    apply_deadline_us: int


class CatalogueService:
    """Answers Apply, Get and Watch.

    products: the generation being served, asked anew for each call. wait_applied: waits until a sequence is
    visible here, seconds; False where it is not in time, or cannot be soon. read_events: first sequence, most
    events -> serialised SequencedEvents. in_log: of these event ids, those that the log holds. writable:
    whether this replica is the primary and has applied the whole log. primary: name of the primary, empty
    where it is not known. wrote: told of what is durable: who wrote it, events, those of them known before,
    the last sequence.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        products: Callable[[], Products],
        applied_sequence: Callable[[], int],
        wait_applied: Callable[[int, float], bool],
        read_events: Callable[[int, int], Sequence[bytes]],
        in_log: Callable[[Sequence[str]], Collection[str]],
        writable: Callable[[], bool],
        primary: Callable[[], str],
        budget: Budget,
        limits: CatalogueLimits,
        wrote: Callable[[tuple[str, str], int, int, int], None] = lambda caller, events, doubles, last: None,
    ) -> None:
        self._writer = writer
        self._products = products
        self._applied_sequence = applied_sequence
        self._wait_applied = wait_applied
        self._read_events = read_events
        self._in_log = in_log
        self._writable = writable
        self._primary = primary
        self._budget = budget
        self._limits = limits
        self._wrote = wrote
        self._watches = threading.BoundedSemaphore(limits.watch_streams_max)
        self._closing = threading.Event()
        self._applying = 0
        self._applying_lock = threading.Lock()

    def applying(self) -> int:
        """Calls of Apply that have not ended; one that is refused is among them for a moment."""
        return self._applying

    def apply(self, request: bytes, context: grpc.ServicerContext) -> pb.ApplyResponse:
        """Append events; return once they are durable and visible to the next request here."""
        # Counted before it asks whether it may write: once that is refused, the count can only fall.
        with self._applying_lock:
            self._applying += 1
        try:
            return self._apply(request, context)
        finally:
            with self._applying_lock:
                self._applying -= 1

    def _apply(self, request: bytes, context: grpc.ServicerContext) -> pb.ApplyResponse:
        remaining_us = self._budget.remaining_us(context, self._limits.apply_deadline_us)
        if not self._writable():
            raise NotThePrimary(self._primary())
        if remaining_us <= 0:
            raise BudgetSpent("the deadline had passed on arrival; nothing was written")
        events = self._checked(request)
        appended = self._writer.append(events, remaining_us / 1e6)
        self._wrote(caller_of(context), len(events), appended.duplicates, appended.sequence)
        left_s = max(0.0, self._budget.remaining_us(context, self._limits.apply_deadline_us) / 1e6)
        if not self._wait_applied(appended.sequence, left_s):
            told = f"the events are durable up to sequence {appended.sequence}, but not visible here yet"
            if self._budget.remaining_us(context, self._limits.apply_deadline_us) > _REPLY_S * 1e6:
                # Whoever sends them again, with the same ids, learns of them from the next primary.
                raise OutcomeUnknown(f"{told}, for this replica no longer follows the log")
            raise BudgetSpent(told)
        return pb.ApplyResponse(
            sequence=appended.sequence, epoch=appended.epoch, duplicates=appended.duplicates
        )

    def get(self, request: bytes, context: grpc.ServicerContext) -> pb.GetResponse:
        """Read one product."""
        message = parse(pb.GetRequest, request)
        if not 1 <= len(message.product_id) <= _PRODUCT_ID_MAX:
            raise InvalidFields([("product_id", f"must have 1 to {_PRODUCT_ID_MAX} characters")])
        remaining_s = self._budget.remaining_us(context) / 1e6
        if remaining_s <= 0:
            raise BudgetSpent("the deadline had passed on arrival")
        if not self._wait_applied(message.min_sequence, max(0.0, remaining_s - _REPLY_S)):
            raise ReplicaNotReady(
                f"sequence {message.min_sequence} has not been applied here; {self._applied_sequence()} has"
            )
        # Read before the product: the product is then at least as new as the sequence says.
        applied_sequence = self._applied_sequence()
        product = self._products().product(message.product_id)
        if product is None:
            raise UnknownProduct(f"product {message.product_id!r} is not in the catalogue")
        return pb.GetResponse(product=pb.Product.FromString(product), applied_sequence=applied_sequence)

    def watch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Stream committed events, as serialised WatchResponses, until the caller leaves or the replica
        does.
        """
        message = parse(pb.WatchRequest, request)
        if not self._watches.acquire(blocking=False):
            raise WatchesFull(f"{self._limits.watch_streams_max} Watch streams are served already")
        try:
            left = threading.Event()
            if not context.add_callback(left.set):
                raise CallerLeft("the caller has left")
            sequence = max(1, message.from_sequence)
            while not left.is_set():
                if self._closing.is_set():
                    raise ReplicaNotReady(
                        f"this replica is leaving; go on from sequence {sequence} elsewhere"
                    )
                # The tailer has seen the head already, so an idle stream costs no read of the store.
                events = self._read_events(sequence, _WATCH_EVENTS) if self._wait_head(sequence) else ()
                for event in events:
                    yield _watch_response(_told(event))
                sequence += len(events)
        finally:
            self._watches.release()

    def close(self) -> None:
        """End the streams."""
        self._closing.set()

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.CATALOGUE
        return {
            f"/{service}/Apply": unary(
                self.apply, metrics.call("unary", service, "Apply"), serializer=serialize
            ),
            f"/{service}/Get": unary(self.get, metrics.call("unary", service, "Get"), serializer=serialize),
            f"/{service}/Watch": stream(self.watch, metrics.call("server_stream", service, "Watch")),
        }

    def _wait_head(self, sequence: int) -> bool:
        return self._wait_applied(sequence, _WATCH_WAIT_S)

    def _checked(self, request: bytes) -> list[pb.Event]:
        """The events, if each is within its limits and each patch has a product to change."""
        violations = rankcore.validate_apply(request)
        if violations:
            raise InvalidFields(violations)
        events = list(parse(pb.ApplyRequest, request).events)
        missing = self._missing_product(events)
        # Sent again, it may meet what came after it: its own last event may have deleted the product. It is
        # passed on, to be answered like any that is in the log already.
        if missing and len(self._in_log([event.event_id for event in events])) < len(events):
            raise UnknownProduct(missing)
        return events

    def _missing_product(self, events: Sequence[pb.Event]) -> str:
        """The first patch that has no product to change, as a sentence; empty if there is none."""
        products = self._products()
        known: dict[str, bool] = {}
        for index, event in enumerate(events):
            change = event.WhichOneof("change")
            if change == "upsert":
                known[event.upsert.product_id] = True
            elif change == "delete":
                known[event.delete.product_id] = False
            else:
                product_id = event.patch.product_id
                if not known.get(product_id, products.contains(product_id)):
                    return (
                        f"events[{index}] patches product {product_id!r}, which is not in the catalogue;"
                        " nothing was written"
                    )
        return ""


def _told(event: bytes) -> bytes:
    """A serialised SequencedEvent as those may read it who follow the catalogue: of feedback, not whose it
    is.
    """
    message = pb.SequencedEvent.FromString(event)
    if not message.event.HasField("feedback"):
        return event
    for field in ("shopper", "session", "comment", "query", "occurred_unix_us"):
        message.event.feedback.ClearField(field)
    return message.SerializeToString()


def _watch_response(event: bytes) -> bytes:
    """A WatchResponse around a serialised SequencedEvent (field 1, length-delimited), which is not parsed."""
    length, size = bytearray(), len(event)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"\x0a" + bytes(length) + event
