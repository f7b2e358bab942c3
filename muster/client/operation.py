"""What an operator sees of the replicas, and which of them is to be steered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from muster.client.errors import MusterError, Unavailable
from muster.v1 import admin_pb2


@dataclass(frozen=True)
class ReplicaStatus:
    """What one replica said of itself. Exactly one of status and error is set."""

    endpoint: str
    status: admin_pb2.StatusResponse | None
    error: MusterError | None


def primary_endpoint(found: Iterable[ReplicaStatus]) -> str:
    """Endpoint of the primary: where two say so, of the later epoch. Raises: Unavailable where none does."""
    reigning = [
        (entry.status.epoch, entry.endpoint)
        for entry in found
        if entry.status is not None and entry.status.role == admin_pb2.ROLE_PRIMARY
    ]
    if not reigning:
        raise Unavailable("none of the replicas is primary at the moment; `muster status` shows their roles")
    return max(reigning)[1]
