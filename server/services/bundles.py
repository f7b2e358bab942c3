"""The calls of ``muster.v1.AdminService`` that release bundles: load, try out, promote, roll back, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from muster.v1 import admin_pb2 as pb
from server import health
from server.admission import Budget
from server.errors import BudgetSpent, InvalidFields
from server.metrics import Metrics
from server.release.bundles import Bundles
from server.release.deploys import Deploys
from server.services import unary

_FOLDER_MAX = 4096
_BUNDLE_ID_MAX = 128
_RECORD_US = 5_000_000


class BundleService:
    """Answers BundleStatus, LoadBundle, ShadowBundle, CanaryBundle, PromoteBundle, RollBackBundle,
    UnloadBundle and RecordDeploy.

    describe: the state of the replica's bundles. budget: what a call's deadline leaves.
    """

    def __init__(
        self,
        *,
        bundles: Bundles,
        deploys: Deploys,
        describe: Callable[[], pb.ReplicaBundles],
        budget: Budget,
    ) -> None:
        self._bundles = bundles
        self._deploys = deploys
        self._describe = describe
        self._budget = budget

    def status(
        self, request: pb.BundleStatusRequest, context: grpc.ServicerContext
    ) -> pb.BundleStatusResponse:
        """What is held."""
        return pb.BundleStatusResponse(bundles=self._describe())

    def load(self, request: pb.LoadBundleRequest, context: grpc.ServicerContext) -> pb.LoadBundleResponse:
        """Begin to load."""
        violations = _bundle_id(request.bundle_id)
        if not 1 <= len(request.folder) <= _FOLDER_MAX or not Path(request.folder).is_absolute():
            violations.append(("folder", f"must be an absolute path of 1 to {_FOLDER_MAX} characters"))
        _refuse(violations)
        self._bundles.load(Path(request.folder), request.bundle_id)
        return pb.LoadBundleResponse(bundles=self._describe())

    def shadow(
        self, request: pb.ShadowBundleRequest, context: grpc.ServicerContext
    ) -> pb.ShadowBundleResponse:
        """Set the share that is compared."""
        _refuse(_bundle_id(request.bundle_id) + _share(request.share))
        self._bundles.share(request.bundle_id, shadow=request.share)
        return pb.ShadowBundleResponse(bundles=self._describe())

    def canary(
        self, request: pb.CanaryBundleRequest, context: grpc.ServicerContext
    ) -> pb.CanaryBundleResponse:
        """Set the share that the candidate answers."""
        _refuse(_bundle_id(request.bundle_id) + _share(request.share))
        self._bundles.share(request.bundle_id, canary=request.share)
        return pb.CanaryBundleResponse(bundles=self._describe())

    def promote(
        self, request: pb.PromoteBundleRequest, context: grpc.ServicerContext
    ) -> pb.PromoteBundleResponse:
        """Serve the candidate."""
        _refuse(_bundle_id(request.bundle_id))
        self._bundles.promote(request.bundle_id)
        return pb.PromoteBundleResponse(bundles=self._describe())

    def roll_back(
        self, request: pb.RollBackBundleRequest, context: grpc.ServicerContext
    ) -> pb.RollBackBundleResponse:
        """Leave a bundle."""
        _refuse(_bundle_id(request.bundle_id))
        self._bundles.roll_back(request.bundle_id)
        return pb.RollBackBundleResponse(bundles=self._describe())

    def unload(
        self, request: pb.UnloadBundleRequest, context: grpc.ServicerContext
    ) -> pb.UnloadBundleResponse:
        """Let go of the bundle before."""
        self._bundles.unload()
        return pb.UnloadBundleResponse(bundles=self._describe())

    def record(
        self, request: pb.RecordDeployRequest, context: grpc.ServicerContext
    ) -> pb.RecordDeployResponse:
        """Write a step."""
        remaining_us = self._budget.remaining_us(context, _RECORD_US)
        if remaining_us <= 0:
            raise BudgetSpent("the deadline had passed on arrival; nothing was written")
        return pb.RecordDeployResponse(sequence=self._deploys.record(request.deploy, remaining_us / 1e6))

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.ADMIN
        calls: dict[str, tuple[Callable[[Any, grpc.ServicerContext], Any], Any, Any]] = {
            "BundleStatus": (self.status, pb.BundleStatusRequest, pb.BundleStatusResponse),
            "LoadBundle": (self.load, pb.LoadBundleRequest, pb.LoadBundleResponse),
            "ShadowBundle": (self.shadow, pb.ShadowBundleRequest, pb.ShadowBundleResponse),
            "CanaryBundle": (self.canary, pb.CanaryBundleRequest, pb.CanaryBundleResponse),
            "PromoteBundle": (self.promote, pb.PromoteBundleRequest, pb.PromoteBundleResponse),
            "RollBackBundle": (self.roll_back, pb.RollBackBundleRequest, pb.RollBackBundleResponse),
            "UnloadBundle": (self.unload, pb.UnloadBundleRequest, pb.UnloadBundleResponse),
            "RecordDeploy": (self.record, pb.RecordDeployRequest, pb.RecordDeployResponse),
        }
        return {
            f"/{service}/{name}": unary(
                function,
                metrics.call("unary", service, name),
                deserializer=request.FromString,
                serializer=response.SerializeToString,
            )
            for name, (function, request, response) in calls.items()
        }


def _bundle_id(value: str) -> list[tuple[str, str]]:
    if 1 <= len(value) <= _BUNDLE_ID_MAX:
        return []
    return [("bundle_id", f"must have 1 to {_BUNDLE_ID_MAX} characters")]


def _share(value: float) -> list[tuple[str, str]]:
    return [] if math.isfinite(value) and 0 <= value <= 1 else [("share", "must be a number from 0 to 1")]


def _refuse(violations: list[tuple[str, str]]) -> None:
    if violations:
        raise InvalidFields(violations)
