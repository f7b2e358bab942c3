"""A replica that does what a test tells it: a real gRPC server with the generated services and health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from muster.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)

Step = Callable[[Any, grpc.ServicerContext], Any]
RANKING, CATALOGUE = "muster.v1.RankingService", "muster.v1.CatalogueService"


def fails(
    code: grpc.StatusCode, details: str = "scripted", trailers: tuple[tuple[str, Any], ...] = ()
) -> Step:
    """A step that ends the call with this status."""

    def step(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata(trailers)
        context.abort(code, details)

    return step


class ScriptedReplica(
    ranking_pb2_grpc.RankingServiceServicer,
    catalogue_pb2_grpc.CatalogueServiceServicer,
    admin_pb2_grpc.AdminServiceServicer,
):
    """Answers every call at once, unless `script` holds a step for it; steps are used up in order.

    `log` is shared by the replicas of one test: event id to sequence, as the real log is.
    """

    def __init__(
        self, name: str, log: dict[str, int], *, primary: bool = False, listen: str = "127.0.0.1:0"
    ) -> None:
        self.name = name
        self.log = log
        self.script: list[Step] = []
        self.always: Step | None = None
        self.calls: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.requests: list[Any] = []
        # What Get finds; None: every product, with nothing but its identifier.
        self.products: dict[str, catalogue_pb2.Product] | None = None
        self.role = admin_pb2.ROLE_STANDBY
        self.primary = ""
        self.folding: admin_pb2.FoldingStatus | None = None
        self.left = threading.Event()
        self._stop = threading.Event()
        self.health = health.HealthServicer()
        self.serve(ranking=True, catalogue=primary)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 50),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(self, self._server)
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(self, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port(listen)}"
        self._server.start()

    def serve(self, *, ranking: bool, catalogue: bool) -> None:
        """Tell the roles through health."""
        states = {
            True: health_pb2.HealthCheckResponse.SERVING,
            False: health_pb2.HealthCheckResponse.NOT_SERVING,
        }
        self.health.set(RANKING, states[ranking])
        self.health.set(CATALOGUE, states[catalogue])

    def hang(self, request: Any, context: grpc.ServicerContext) -> Any:
        """A step that is silent until the caller leaves."""
        context.add_callback(self.left.set)
        while context.is_active() and not self._stop.wait(0.01):
            pass
        return ranking_pb2.SearchResponse()

    def close(self) -> None:
        self._stop.set()
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append(name)
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata()})
        step = self.script.pop(0) if self.script else self.always
        return step(request, context) if step is not None else None

    def Search(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        found = self._step("Search", request, context)
        receipt = ranking_pb2.Receipt(
            replica=self.name,
            tier=ranking_pb2.TIER_LATE,
            depth=200,
            candidates=2,
            expected_ndcg=0.97,
            reason=ranking_pb2.REASON_DEADLINE,
        )
        result = ranking_pb2.RankedProduct(
            product_id="P1", title="a [bold] kettle", score=1.5, price=9.5, stock=0
        )
        result.signals.add(name="bm25", value=2.5)
        result.signals.add(name="cross")
        return found or ranking_pb2.SearchResponse(receipt=receipt, results=[result])

    def Rerank(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._step("Rerank", request, context) or ranking_pb2.RerankResponse(
            results=[ranking_pb2.RankedProduct(product_id=name) for name in request.product_ids]
        )

    def Recommend(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        found = self._step("Recommend", request, context)
        receipt = ranking_pb2.Receipt(
            replica=self.name, tier=ranking_pb2.TIER_MIXTURE, reason=ranking_pb2.REASON_DEADLINE
        )
        result = ranking_pb2.RankedProduct(product_id="P2", title="a [bold] cup", score=0.25, price=4.5)
        result.because.add(product_id="P1", title="a [bold] kettle", source="next", contribution=0.2)
        result.because.add(source="popularity", contribution=0.05)
        history = ranking_pb2.HistoryAccount(used=2, unknown=1, left_out=3, recorded=4)
        return found or ranking_pb2.RecommendResponse(receipt=receipt, results=[result], history=history)

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._step("Get", request, context)
        if self.products is not None:
            if request.product_id not in self.products:
                context.abort(grpc.StatusCode.NOT_FOUND, f"no product {request.product_id!r}")
            return catalogue_pb2.GetResponse(product=self.products[request.product_id])
        return catalogue_pb2.GetResponse(product=catalogue_pb2.Product(product_id=request.product_id))

    def Apply(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        found = self._step("Apply", request, context)
        return found or self.append(request)

    def append(self, request: Any) -> Any:
        """Puts a batch into the shared log, once."""
        known = sum(event.event_id in self.log for event in request.events)
        for event in request.events:
            self.log.setdefault(event.event_id, len(self.log) + 1)
        sequence = max(self.log[event.event_id] for event in request.events)
        return catalogue_pb2.ApplyResponse(sequence=sequence, epoch=1, duplicates=known)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        self._step("Watch", request, context)
        for sequence in range(request.from_sequence, request.from_sequence + 3):
            yield catalogue_pb2.WatchResponse(event=catalogue_pb2.SequencedEvent(sequence=sequence))
        context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")

    def TransferLease(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        found = self._step("TransferLease", request, context)
        return found or admin_pb2.TransferLeaseResponse(primary=self.name, epoch=4)

    def Status(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        # Neither among the calls nor a step of the script: a client may ask for it beside a write that waits.
        found = self.always(request, context) if self.always is not None else None
        if isinstance(found, admin_pb2.StatusResponse):
            return found
        return admin_pb2.StatusResponse(
            replica=self.name,
            role=self.role,
            primary=self.primary,
            folding=self.folding,
            serving=True,
            epoch=3,
            generation_id="gen-1",
            dense_index=admin_pb2.DenseIndexStatus(kind="lists", probes=9, recall_at_100=0.9807),
        )
