"""Spans reach a collector: those of the front, made after the fact, and those of the services in Python."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from muster.v1 import admin_pb2, ranking_pb2
from server.config import TracingSettings
from server.tracing import Tracing, TracingUnavailable
from tests.server.replica import Replica, run_refused, shoes, wait_until

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed"
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc  # noqa: E402

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]  # it ships no types
    """A collector of OTLP on the loopback. A context manager."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  # gRPC's name
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


class Front:
    """A front that has traced these calls."""

    def __init__(self, *traced: dict[str, Any]) -> None:
        self.left = list(traced)
        self.share: float | None = None

    def sample(self, share: float | None) -> None:
        self.share = share

    def traced(self, wait_s: float) -> dict[str, Any] | None:
        if self.left:
            return self.left.pop(0)
        time.sleep(0.01)
        return None


def test_a_ranking_call_becomes_a_span_with_its_stages_end_to_end(collector: Collector) -> None:
    front = Front(
        {
            "trace_id": TRACE,
            "parent_id": SPAN,
            "request_id": "order-7",
            "method": "Search",
            "began_unix_us": 1_700_000_000_000_000,
            "took_us": 5_000,
            "code": 0,
            "tier": "late",
            "reason": "load",
            "depth": 50,
            "expected_ndcg": 0.9,
            "price": 0.0,
            "stages_us": {
                "queue": 1_000,
                "encode": 500,
                "retrieve": 2_000,
                "late": 0,
                "order": 100,
                "total": 4_000,
            },
        },
        {
            "trace_id": "a" * 32,
            "parent_id": None,
            "request_id": None,
            "method": "Rerank",
            "began_unix_us": 1_700_000_000_000_000,
            "took_us": 10,
            "code": 14,
        },
    )
    tracing = Tracing(TracingSettings(endpoint=collector.url, share=0.25), "a", front)
    tracing.start()
    assert front.share == 0.25
    wait_until(lambda: not front.left, "both calls")
    tracing.stop()
    assert front.share is None
    (search,) = collector.named("muster.v1.RankingService/Search")
    assert (search.trace_id.hex(), search.parent_span_id.hex()) == (TRACE, SPAN)
    assert search.end_time_unix_nano - search.start_time_unix_nano == 5_000_000
    told = attributes(search.attributes)
    assert told["rpc.system"] == "grpc"
    assert (told["rpc.service"], told["rpc.method"]) == ("muster.v1.RankingService", "Search")
    assert (told["rpc.grpc.status_code"], told["muster.tier"], told["muster.depth"]) == (0, "late", 50)
    assert (told["muster.reason"], told["muster.request_id"]) == ("load", "order-7")
    parts = sorted(
        (span for span in collector.spans if span.parent_span_id == search.span_id),
        key=lambda span: span.start_time_unix_nano,
    )
    assert [span.name for span in parts] == [
        "muster queue",
        "muster encode",
        "muster retrieve",
        "muster order",
    ]
    assert parts[0].start_time_unix_nano == search.start_time_unix_nano
    for before, after in itertools.pairwise(parts):
        assert after.start_time_unix_nano == before.end_time_unix_nano
    (rerank,) = collector.named("muster.v1.RankingService/Rerank")
    assert (rerank.trace_id.hex(), rerank.parent_span_id) == ("a" * 32, b"")
    assert rerank.status.code == 2
    assert "muster.tier" not in attributes(rerank.attributes)
    assert collector.resources[0]["service.name"] == "muster"
    assert collector.resources[0]["service.instance.id"] == "a"


def test_calls_of_a_replica_are_traced_where_their_callers_are(
    collector: Collector, bundle: Path, tmp_path: Path
) -> None:
    settings = {"tracing.endpoint": collector.url, "tracing.share": 0, "generation.rebuild": "false"}
    with Replica(bundle, tmp_path / "data", "a", settings) as replica:
        replica.wait_primary()
        replica.apply(*shoes(5))
        request = ranking_pb2.SearchRequest(query="red shoe")
        for flags in ("01", "00"):
            metadata = [("traceparent", f"00-{TRACE}-{SPAN}-{flags}"), ("x-request-id", f"order-{flags}")]
            replica.ranking.Search(request, timeout=5, metadata=metadata)
            replica.admin.Status(admin_pb2.StatusRequest(), timeout=5, metadata=metadata)
        replica.ranking.Search(request, timeout=5)
        assert replica.drain() == 0
    (search,) = collector.named("muster.v1.RankingService/Search")
    (status,) = collector.named("muster.v1.AdminService/Status")
    for span in (search, status):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert attributes(span.attributes)["muster.request_id"] == "order-01"
    stages = {span.name for span in collector.spans if span.parent_span_id == search.span_id}
    assert "muster retrieve" in stages
    # The stages lie within the call.
    for span in collector.spans:
        if span.parent_span_id == search.span_id:
            assert search.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= search.end_time_unix_nano


def test_without_the_packages_a_replica_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name=name.partition(".")[0])

    monkeypatch.setattr("server.tracing.importlib.import_module", absent)
    with pytest.raises(TracingUnavailable, match="install the extra otel"):
        Tracing(TracingSettings(endpoint="http://127.0.0.1:1"), "a", Front())


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    import sys

    line = [
        sys.executable,
        "-m",
        "server",
        "--data-dir",
        str(tmp_path),
        "--set",
        "tracing.endpoint=collector",
    ]
    code, told = run_refused(line)
    assert code == 2
    assert "must be a URL" in told
