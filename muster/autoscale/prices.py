"""How dear a service's time is now, in units that mean the same for every bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import grpc

from muster.client import Credentials
from muster.v1 import admin_pb2, admin_pb2_grpc

_STATUS_S = 0.5


def price_units(status: admin_pb2.StatusResponse) -> float | None:
    """The price of a replica in units of the gain per cost between its cheapest and its best plan, as the
    planner counts it: 0 where nothing waits, at 1 the best plan is worth no more than the cheapest. None for
    a replica whose plans do not differ in cost and worth: its price decides nothing.
    """
    plans = [plan for plan in status.plans if plan.cost_ms > 0]
    if not plans:
        return None
    cheapest = min(plans, key=lambda plan: plan.cost_ms)
    best = max(plans, key=lambda plan: (plan.expected_ndcg, -plan.cost_ms))
    gain, more_ms = best.expected_ndcg - cheapest.expected_ndcg, best.cost_ms - cheapest.cost_ms
    if gain <= 0 or more_ms <= 0:
        return None
    return status.price * more_ms / gain


class Looks:
    """Asks replicas for their status, on channels that are kept. A context manager."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.close()

    def statuses(self, endpoints: Sequence[str]) -> dict[str, admin_pb2.StatusResponse]:
        """What each says that answers within half a second."""
        waiting = {
            endpoint: admin_pb2_grpc.AdminServiceStub(self._channel(endpoint)).Status.future(
                admin_pb2.StatusRequest(), timeout=_STATUS_S
            )
            for endpoint in endpoints
        }
        found = {}
        for endpoint, call in waiting.items():
            with contextlib.suppress(grpc.RpcError):
                found[endpoint] = call.result()
        return found

    def units(self, endpoints: Sequence[str]) -> float | None:
        """Mean of the price units of the replicas that serve reads; None: none told."""
        told = [
            units
            for status in self.statuses(endpoints).values()
            if status.serving and (units := price_units(status)) is not None
        ]
        return sum(told) / len(told) if told else None

    def _channel(self, endpoint: str) -> grpc.Channel:
        if endpoint not in self._channels:
            self._channels[endpoint] = Credentials.from_environment().channel(
                endpoint,
                [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)],
            )
        return self._channels[endpoint]
