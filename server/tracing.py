"""Spans of calls, sent by OpenTelemetry (extra ``otel``).

Spans are made after the fact. The front says which ranking calls were sampled and hands over what they told
of themselves once they have ended: a call that is not traced pays one look at a number, and no call waits
for a span. The stages of a ranking call are told by how long they took altogether; they are laid end to end,
in the order in which they run, from the beginning of the call.

Names of spans and attributes: OpenTelemetry semantic conventions for RPC and gRPC.
"""

from __future__ import annotations

import importlib
import logging
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from server import config, health, logs
from server.metrics import Ended

logger = logging.getLogger(__name__)

_WAIT_S = 0.5
_FLUSH_MS = 2_000
_STAGES = ("queue", "encode", "retrieve", "late", "cross", "order")


class TracingUnavailable(Exception):
    """The packages are not installed; the text says which extra holds them."""


class Tracing:
    """Sends the spans of one replica. Raises: TracingUnavailable.

    front: tells of ranking calls that were traced (``rankcore.Front``).
    """

    def __init__(self, settings: config.TracingSettings, replica: str, front: Any) -> None:
        try:
            exporting = importlib.import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
            sdk = importlib.import_module("opentelemetry.sdk.trace")
            processing = importlib.import_module("opentelemetry.sdk.trace.export")
            resources = importlib.import_module("opentelemetry.sdk.resources")
            self._api = importlib.import_module("opentelemetry.trace")
            ids = importlib.import_module("opentelemetry.sdk.trace.id_generator").RandomIdGenerator
        except ImportError as error:
            raise TracingUnavailable(
                f"tracing.endpoint is set, but {error.name} is not installed; install the extra otel"
            ) from error
        self._front = front
        self._share = settings.share
        self._ids = _given_traces(ids)
        self._provider = sdk.TracerProvider(
            resource=resources.Resource.create(
                {"service.name": "muster", "service.instance.id": replica, "service.namespace": "muster"}
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        exporter = exporting.OTLPSpanExporter(
            endpoint=settings.endpoint, insecure=settings.endpoint.startswith("http://")
        )
        self._provider.add_span_processor(processing.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("muster.server")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Trace from now on."""
        self._front.sample(self._share)
        self._thread.start()

    def stop(self) -> None:
        """Trace no more; sends what there is, for at most two seconds."""
        self._front.sample(None)
        self._stopped.set()
        self._thread.join(2 * _WAIT_S)
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def ended(self, call: Ended) -> None:
        """A call of the services in Python has ended."""
        parent = logs.parent_of(call.metadata)
        if parent is None:
            if random.random() >= self._share:
                return
        elif not parent[2]:
            return
        end_ns = time.time_ns()
        trace_id, span_id = (parent[0], parent[1]) if parent is not None else ("", None)
        span = self._server_span(
            call.service,
            call.method,
            trace_id=trace_id,
            parent_id=span_id,
            began_ns=end_ns - int(call.took_s * 1e9),
            code=call.code.value[0],
            attributes={"muster.request_id": call.request_id},
        )
        span.end(end_ns)

    def _run(self) -> None:
        while True:
            traced = self._front.traced(_WAIT_S)
            if traced is not None:
                self._tell(traced)
            elif self._stopped.is_set():
                return

    def _tell(self, traced: Mapping[str, Any]) -> None:
        """The spans of one ranking call."""
        began_ns = traced["began_unix_us"] * 1000
        attributes = {
            f"muster.{name}": traced[name]
            for name in ("tier", "reason", "depth", "expected_ndcg", "price", "request_id")
            if traced.get(name) is not None
        }
        span = self._server_span(
            health.RANKING,
            traced["method"],
            trace_id=traced["trace_id"],
            parent_id=traced["parent_id"],
            began_ns=began_ns,
            code=traced["code"],
            attributes=attributes,
        )
        context = self._api.set_span_in_context(span)
        at_ns = began_ns
        for stage in _STAGES:
            took_ns = traced.get("stages_us", {}).get(stage, 0) * 1000
            if took_ns:
                part = self._tracer.start_span(f"muster {stage}", context, start_time=at_ns)
                at_ns += took_ns
                part.end(at_ns)
        span.end(began_ns + traced["took_us"] * 1000)

    def _server_span(
        self,
        service: str,
        method: str,
        *,
        trace_id: str,
        parent_id: str | None,
        began_ns: int,
        code: int,
        attributes: Mapping[str, Any],
    ) -> Any:
        api = self._api
        context = None
        if parent_id is not None:
            caller = api.SpanContext(
                int(trace_id, 16), int(parent_id, 16), is_remote=True, trace_flags=api.TraceFlags(1)
            )
            context = api.set_span_in_context(api.NonRecordingSpan(caller))
        elif trace_id:
            self._ids.next_trace_id = int(trace_id, 16)
        span = self._tracer.start_span(
            f"{service}/{method}",
            context,
            kind=api.SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.grpc.status_code": code,
                **attributes,
            },
            start_time=began_ns,
        )
        if code in _SERVER_ERRORS:
            span.set_status(api.StatusCode.ERROR)
        return span


# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: a server's errors by the
# conventions.
_SERVER_ERRORS = frozenset({2, 4, 12, 13, 14, 15})


def _given_traces(base: type[Any]) -> Any:
    """An identifier generator that can be told the next trace: the front has named those that begin there."""

    class GivenTraces(base):  # type: ignore[misc]  # its base is only known once it is installed
        next_trace_id: int | None = None

        def generate_trace_id(self) -> int:
            given, self.next_trace_id = self.next_trace_id, None
            return int(super().generate_trace_id()) if given is None else given

    return GivenTraces()
