"""``muster.v1.FeedbackService``: takes feedback into the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc

from muster.v1 import catalogue_pb2
from muster.v1 import feedback_pb2 as pb
from server import health
from server.admission import Budget
from server.audit import caller_of
from server.catalogue.store import Appended
from server.errors import BudgetSpent, InvalidFields, NotThePrimary
from server.feedback.recording import Recorder, violations
from server.metrics import Metrics
from server.services import parse, serialize, unary


class Writer(Protocol):
    """The part of the log that appends."""

    def append(self, events: Sequence[catalogue_pb2.Event], timeout_s: float) -> Appended:
        """Make the events durable, all or none."""


class FeedbackService:
    """Answers Record.

    recorder: makes what is kept. writable, primary: as for the catalogue. counted: told what was recorded, by
    kind of event, and what was scrubbed, by kind of find. default_us: budget of a Record without a deadline.
    wrote: as for the catalogue.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        recorder: Recorder,
        writable: Callable[[], bool],
        primary: Callable[[], str],
        counted: Callable[[Sequence[catalogue_pb2.Event], Mapping[str, int]], None],
        budget: Budget,
        default_us: int,
        wrote: Callable[[tuple[str, str], int, int, int], None] = lambda caller, events, doubles, last: None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._recorder = recorder
        self._writable = writable
        self._primary = primary
        self._counted = counted
        self._budget = budget
        self._default_us = default_us
        self._wrote = wrote
        self._clock_s = clock_s
        self._recording = 0
        self._lock = threading.Lock()

    def recording(self) -> int:
        """Calls of Record that have not ended; one that is refused is among them for a moment."""
        return self._recording

    def record(self, request: bytes, context: grpc.ServicerContext) -> pb.RecordResponse:
        """Append feedback; return once it is durable."""
        # As for Apply: counted before it asks whether it may write.
        with self._lock:
            self._recording += 1
        try:
            return self._record(request, context)
        finally:
            with self._lock:
                self._recording -= 1

    def _record(self, request: bytes, context: grpc.ServicerContext) -> pb.RecordResponse:
        if not self._writable():
            raise NotThePrimary(self._primary())
        message = parse(pb.RecordRequest, request)
        if found := violations(message):
            raise InvalidFields(found)
        recorded = self._recorder.recorded(message.events, self._clock_s())
        remaining_us = self._budget.remaining_us(context, self._default_us)
        if remaining_us <= 0:
            raise BudgetSpent("the deadline had passed on arrival; nothing was written")
        appended = self._writer.append(recorded.events, remaining_us / 1e6)
        self._counted(recorded.events, recorded.scrubbed)
        self._wrote(caller_of(context), len(recorded.events), appended.duplicates, appended.sequence)
        return pb.RecordResponse(
            sequence=appended.sequence,
            epoch=appended.epoch,
            duplicates=appended.duplicates,
            unknown_receipts=recorded.unknown_receipts,
        )

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.FEEDBACK
        return {
            f"/{service}/Record": unary(
                self.record, metrics.call("unary", service, "Record"), serializer=serialize
            )
        }
