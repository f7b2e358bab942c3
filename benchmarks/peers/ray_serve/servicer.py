"""How Ray Serve's proxy learns of the method, as generated code would tell it."""

from __future__ import annotations

from typing import Any

import grpc

from benchmarks.peers.messages import RERANK_METHOD, RerankRequest


def add_reranker(servicer: Any, server: Any) -> None:
    """Register the one method of the service."""
    _, service, method = RERANK_METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        getattr(servicer, method),
        request_deserializer=RerankRequest.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
