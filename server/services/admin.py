"""``muster.v1.AdminService``: what a replica is doing, and the operator's few levers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from muster.v1 import admin_pb2 as pb
from server import health
from server.metrics import Metrics
from server.services import unary


class AdminService:
    """Answers Status, Drain and Rebuild.

    status: the replica's state. drain: begins a drain and returns the requests still running.
    rebuild: starts a build; False where one is running on this machine already.
    """

    def __init__(
        self,
        *,
        status: Callable[[], pb.StatusResponse],
        drain: Callable[[], int],
        rebuild: Callable[[], bool],
    ) -> None:
        self._status = status
        self._drain = drain
        self._rebuild = rebuild

    def status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """The replica's state now; also while it starts."""
        return self._status()

    def drain(self, request: pb.DrainRequest, context: grpc.ServicerContext) -> pb.DrainResponse:
        """Begin to leave."""
        return pb.DrainResponse(in_flight=self._drain())

    def rebuild(self, request: pb.RebuildRequest, context: grpc.ServicerContext) -> pb.RebuildResponse:
        """Begin a build of a new generation."""
        return pb.RebuildResponse(started=self._rebuild())

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.ADMIN
        return {
            f"/{service}/Status": unary(
                self.status,
                metrics.call("unary", service, "Status"),
                deserializer=pb.StatusRequest.FromString,
                serializer=pb.StatusResponse.SerializeToString,
            ),
            f"/{service}/Drain": unary(
                self.drain,
                metrics.call("unary", service, "Drain"),
                deserializer=pb.DrainRequest.FromString,
                serializer=pb.DrainResponse.SerializeToString,
            ),
            f"/{service}/Rebuild": unary(
                self.rebuild,
                metrics.call("unary", service, "Rebuild"),
                deserializer=pb.RebuildRequest.FromString,
                serializer=pb.RebuildResponse.SerializeToString,
            ),
        }
