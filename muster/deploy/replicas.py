"""The calls of a deployer: every replica's AdminService, each over a channel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from muster.client import ClientSettings, Credentials
from muster.client.errors import translate
from muster.deploy.steps import View
from muster.v1 import admin_pb2 as pb
from muster.v1 import admin_pb2_grpc
from muster.v1.deploy_pb2 import Deploy

_CALL_S = 5.0
# A replica that does not answer a question about itself within this time is left for the next look.
_LOOK_S = 2.0


class Replicas:
    """Replicas by their endpoints. Every call raises MusterError."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.endpoints = list(endpoints)
        options = ClientSettings().status_options()
        credentials = Credentials.from_environment()
        credentials.check(self.endpoints)
        self._channels = [credentials.channel(endpoint, options) for endpoint in endpoints]
        self._stubs: dict[str, Any] = {
            endpoint: admin_pb2_grpc.AdminServiceStub(channel)
            for endpoint, channel in zip(endpoints, self._channels, strict=True)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            channel.close()

    def look(self) -> list[View]:
        """What every replica holds, asked all at once."""
        calls = [
            self._stubs[endpoint].BundleStatus.future(pb.BundleStatusRequest(), timeout=_LOOK_S)
            for endpoint in self.endpoints
        ]
        views = []
        for endpoint, call in zip(self.endpoints, calls, strict=True):
            try:
                views.append(View(endpoint, call.result().bundles))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise translate(error, endpoint=endpoint) from error
                views.append(View(endpoint, None))
        return views

    def load(self, endpoint: str, folder: str, bundle_id: str) -> None:
        """LoadBundle."""
        self._call(endpoint, "LoadBundle", pb.LoadBundleRequest(folder=folder, bundle_id=bundle_id))

    def share(self, endpoint: str, bundle_id: str, *, shadow: float, canary: float) -> None:
        """ShadowBundle and CanaryBundle."""
        self._call(endpoint, "ShadowBundle", pb.ShadowBundleRequest(bundle_id=bundle_id, share=shadow))
        self._call(endpoint, "CanaryBundle", pb.CanaryBundleRequest(bundle_id=bundle_id, share=canary))

    def promote(self, endpoint: str, bundle_id: str) -> None:
        """PromoteBundle."""
        self._call(endpoint, "PromoteBundle", pb.PromoteBundleRequest(bundle_id=bundle_id))

    def roll_back(self, endpoint: str, bundle_id: str) -> None:
        """RollBackBundle."""
        self._call(endpoint, "RollBackBundle", pb.RollBackBundleRequest(bundle_id=bundle_id))

    def unload(self, endpoint: str) -> None:
        """UnloadBundle."""
        self._call(endpoint, "UnloadBundle", pb.UnloadBundleRequest())

    def record(self, endpoint: str, step: Deploy) -> int:
        """RecordDeploy, at the primary."""
        response = self._call(endpoint, "RecordDeploy", pb.RecordDeployRequest(deploy=step))
        return int(response.sequence)

    def _call(self, endpoint: str, method: str, request: Any) -> Any:
        try:
            return getattr(self._stubs[endpoint], method)(request, timeout=_CALL_S)
        except grpc.RpcError as error:
            raise translate(error, endpoint=endpoint, writing=method == "RecordDeploy") from error
