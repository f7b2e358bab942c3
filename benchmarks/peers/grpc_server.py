"""A small gRPC server round a scorer, as a team would write it. Read by the interpreters of several peers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.messages import RERANK_METHOD, RerankRequest, RerankResponse

Score = Callable[[str, Sequence[str]], Sequence[float]]


def serve(score: Score, settings: Arguments) -> None:
    """Serve until the process is ended.

    One request is computed at a time: the runtime uses every core for it. What has been given up by its
    caller by the time its turn comes is not computed (gRPC guides, "Deadlines").
    """
    turn = threading.Lock()

    def rerank(request: Any, context: grpc.ServicerContext) -> Any:
        with turn:
            if not context.is_active():
                return RerankResponse()
            return RerankResponse(scores=score(request.query, list(request.texts)))

    _, service, method = RERANK_METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        rerank,
        request_deserializer=RerankRequest.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    server = grpc.server(
        ThreadPoolExecutor(max_workers=max(4, settings.in_flight_max)),
        handlers=[grpc.method_handlers_generic_handler(service, {method: handler})],
        maximum_concurrent_rpcs=settings.in_flight_max,
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_insecure_port(f"127.0.0.1:{settings.port}")
    server.start()
    server.wait_for_termination()
