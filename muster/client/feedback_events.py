"""Feedback on answers: what shoppers did, with the identifiers that make sending it again safe."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from muster.client.errors import InvalidRequest
from muster.client.events import EVENTS_MAX, new_event_id
from muster.v1 import feedback_pb2, ranking_pb2

Kind = Literal["view", "click", "cart", "buy", "comment", "share"]

_KINDS = {
    name.removeprefix("FEEDBACK_KIND_").lower(): number
    for name, number in feedback_pb2.FeedbackKind.items()
    if number
}


def feedback(
    kind: Kind,
    product_id: str,
    *,
    receipt: ranking_pb2.Receipt | str = "",
    position: int = 0,
    shopper_id: str = "",
    session_id: str = "",
    occurred_at: datetime | float | None = None,
    comment: str = "",
    query: str = "",
    event_id: str = "",
) -> feedback_pb2.FeedbackEvent:
    """One thing that a shopper did.

    receipt: of the answer that it belongs to, or its `receipt_id`; empty: of none. position: place of the
    product in the answer, from 1; 0: unknown. shopper_id, session_id: the shop's names, which the service
    keeps only as pseudonyms. occurred_at: seconds since the Unix epoch, or a datetime with a time zone;
    None: now. comment: for kind "comment". query: that led there. event_id: empty for a fresh one.
    Raises: InvalidRequest if a value cannot be sent at all.
    """
    if kind not in _KINDS:
        text = f"a kind of feedback is one of {', '.join(_KINDS)}"
        raise InvalidRequest(text, [("kind", text)])
    if isinstance(occurred_at, datetime):
        if occurred_at.tzinfo is None:
            text = "a datetime needs a time zone"
            raise InvalidRequest(text, [("occurred_at", text)])
        occurred_at = occurred_at.timestamp()
    occurred_s = time.time() if occurred_at is None else occurred_at
    receipt_id = receipt if isinstance(receipt, str) else receipt.receipt_id
    try:
        return feedback_pb2.FeedbackEvent(
            event_id=event_id or new_event_id(),
            kind=_KINDS[kind],
            product_id=product_id,
            receipt_id=receipt_id,
            position=position,
            shopper_id=shopper_id,
            session_id=session_id,
            occurred_unix_us=round(occurred_s * 1e6),
            comment=comment,
            query=query,
        )
    except (TypeError, ValueError, OverflowError) as error:
        # Not the error's own text, which may repeat a shopper's name.
        text = f"the feedback cannot be sent: a value has the wrong type or range ({type(error).__name__})"
        raise InvalidRequest(text, [("events", text)]) from None


def record_request(
    events: feedback_pb2.FeedbackEvent | Iterable[feedback_pb2.FeedbackEvent],
) -> feedback_pb2.RecordRequest:
    """One batch. Events without an identifier are given one in place, so that the caller can send them again.

    Raises: InvalidRequest if there is no event, or more than EVENTS_MAX.
    """
    batch = [events] if isinstance(events, feedback_pb2.FeedbackEvent) else list(events)
    if not 1 <= len(batch) <= EVENTS_MAX:
        text = f"a batch has 1 to {EVENTS_MAX:,} events, not {len(batch):,}"
        raise InvalidRequest(text, [("events", text)])
    for event in batch:
        if not event.event_id:
            event.event_id = new_event_id()
    return feedback_pb2.RecordRequest(events=batch)
