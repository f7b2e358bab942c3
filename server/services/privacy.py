"""The part of ``muster.v1.AdminService`` that is about shoppers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from muster.v1 import admin_pb2 as pb
from server import health
from server.errors import InvalidFields
from server.feedback.recording import NAME_CHARACTERS_MAX
from server.metrics import Metrics
from server.privacy.erasure import Erasure
from server.services import parse, serialize, unary


class PrivacyService:
    """Answers EraseShopper. erase: takes a shopper out of the store; raises NotThePrimary, StoreError."""

    def __init__(self, erase: Callable[[str], Erasure]) -> None:
        self._erase = erase

    def erase_shopper(self, request: bytes, context: grpc.ServicerContext) -> pb.EraseShopperResponse:
        """Take a shopper out of log and feedback."""
        message = parse(pb.EraseShopperRequest, request)
        if not 1 <= len(message.shopper_id) <= NAME_CHARACTERS_MAX:
            raise InvalidFields([("shopper_id", f"must have 1 to {NAME_CHARACTERS_MAX} characters")])
        erased = self._erase(message.shopper_id)
        return pb.EraseShopperResponse(
            pseudonyms=erased.pseudonyms,
            log_events=erased.log_events,
            folded_events=erased.folded_events,
            cleared=erased.cleared,
        )

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        call = metrics.call("unary", health.ADMIN, "EraseShopper")
        return {f"/{health.ADMIN}/EraseShopper": unary(self.erase_shopper, call, serializer=serialize)}
