"""``muster.v1.AdminService``: what a replica is doing, and the operator's few levers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from muster.v1 import admin_pb2 as pb
from server import health
from server.metrics import Metrics
from server.services import unary

_TRANSFER_WAIT_S = 10.0
# Kept of a caller's time for the way back.
_REPLY_S = 0.05


class AdminService:
    """Answers Status, Drain, TransferLease and Rebuild.

    status: the replica's state. drain: begins a drain and returns the requests still running.
    transfer: gives the lease away and waits, at most so many seconds, for another replica to take it; returns
    that one's name and epoch, "" and 0 where none did. Raises NotThePrimary.
    rebuild: starts a build; False where one is running on this machine already.
    """

    def __init__(
        self,
        *,
        status: Callable[[], pb.StatusResponse],
        drain: Callable[[], int],
        transfer: Callable[[float], tuple[str, int]],
        rebuild: Callable[[], bool],
    ) -> None:
        self._status = status
        self._drain = drain
        self._transfer = transfer
        self._rebuild = rebuild

    def status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """The replica's state now; also while it starts."""
        return self._status()

    def drain(self, request: pb.DrainRequest, context: grpc.ServicerContext) -> pb.DrainResponse:
        """Begin to leave."""
        return pb.DrainResponse(in_flight=self._drain())

    def transfer_lease(
        self, request: pb.TransferLeaseRequest, context: grpc.ServicerContext
    ) -> pb.TransferLeaseResponse:
        """Give the lease to another replica."""
        left_s = context.time_remaining()
        wait_s = _TRANSFER_WAIT_S if left_s is None else min(_TRANSFER_WAIT_S, left_s - _REPLY_S)
        primary, epoch = self._transfer(wait_s)
        return pb.TransferLeaseResponse(primary=primary, epoch=epoch)

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
            f"/{service}/TransferLease": unary(
                self.transfer_lease,
                metrics.call("unary", service, "TransferLease"),
                deserializer=pb.TransferLeaseRequest.FromString,
                serializer=pb.TransferLeaseResponse.SerializeToString,
            ),
            f"/{service}/Rebuild": unary(
                self.rebuild,
                metrics.call("unary", service, "Rebuild"),
                deserializer=pb.RebuildRequest.FromString,
                serializer=pb.RebuildResponse.SerializeToString,
            ),
        }
