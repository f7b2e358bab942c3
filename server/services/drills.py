"""The calls of ``muster.v1.AdminService`` by which drills ask for leave, and operators end them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import grpc

from muster.v1 import drill_pb2 as pb
from server import health
from server.drills import Asked, Drills
from server.errors import InvalidFields
from server.metrics import Metrics
from server.services import unary

_CHARACTERS_MAX = 64


class DrillService:
    """Answers DrillStatus, BeginDrill, EndDrill and AbortDrill."""

    def __init__(self, drills: Drills) -> None:
        self._drills = drills

    def status(self, request: pb.DrillStatusRequest, context: grpc.ServicerContext) -> pb.DrillStatusResponse:
        """What is allowed, and what is under way."""
        drills = self._drills
        response = pb.DrillStatusResponse(
            allowed=drills.allowed,
            blast_radius_replicas=drills.replicas_max,
            rate_max_per_s=drills.rate_max_per_s,
        )
        if (found := drills.under_way()) is not None:
            asked, response.running_s = found
            response.drill_id, response.drill, response.fault = asked.drill_id, asked.drill, asked.fault
        return response

    def begin(self, request: pb.BeginDrillRequest, context: grpc.ServicerContext) -> pb.BeginDrillResponse:
        """Begin, or go on."""
        violations = [
            (field, f"must have 1 to {_CHARACTERS_MAX} characters")
            for field in ("drill_id", "drill", "fault")
            if not 1 <= len(getattr(request, field)) <= _CHARACTERS_MAX
        ]
        if request.replicas < 1:
            violations.append(("replicas", "must be at least 1"))
        if not (math.isfinite(request.rate_per_s) and request.rate_per_s >= 0):
            violations.append(("rate_per_s", "must be a finite number from 0"))
        if violations:
            raise InvalidFields(violations)
        asked = Asked(request.drill_id, request.drill, request.fault, request.replicas, request.rate_per_s)
        return pb.BeginDrillResponse(aborted=self._drills.begin(asked))

    def end(self, request: pb.EndDrillRequest, context: grpc.ServicerContext) -> pb.EndDrillResponse:
        """It is undone."""
        self._drills.end(request.drill_id)
        return pb.EndDrillResponse()

    def abort(self, request: pb.AbortDrillRequest, context: grpc.ServicerContext) -> pb.AbortDrillResponse:
        """End the one under way."""
        return pb.AbortDrillResponse(drill_id=self._drills.abort())

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.ADMIN
        return {
            f"/{service}/{name}": unary(
                function,
                metrics.call("unary", service, name),
                deserializer=request.FromString,
                serializer=response.SerializeToString,
            )
            for name, function, request, response in (
                ("DrillStatus", self.status, pb.DrillStatusRequest, pb.DrillStatusResponse),
                ("BeginDrill", self.begin, pb.BeginDrillRequest, pb.BeginDrillResponse),
                ("EndDrill", self.end, pb.EndDrillRequest, pb.EndDrillResponse),
                ("AbortDrill", self.abort, pb.AbortDrillRequest, pb.AbortDrillResponse),
            )
        }
