"""What an operator sees of the replicas, and which of them is to be steered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muster.client.errors import DeadlineExceeded, MusterError, Unavailable
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


def out_of_sight(found: Sequence[ReplicaStatus]) -> str:
    """What keeps a write from its primary, as far as this client can see; empty where nothing that it sees
    does."""
    answering = [one.status for one in found if one.status is not None]
    silent = ", ".join(one.endpoint for one in found if isinstance(one.error, Unavailable | DeadlineExceeded))
    if not answering:
        return f"no replica answers this client ({silent})" if silent else ""
    if any(status.role == admin_pb2.ROLE_PRIMARY for status in answering):
        return ""
    names = ", ".join(status.replica for status in answering)
    say = "says" if len(answering) == 1 else "say"
    newest = max(answering, key=lambda status: status.epoch)
    if not newest.primary:
        return f"no replica has the lease at the moment, {say} {names}"
    if newest.primary in {status.replica for status in answering}:
        return ""  # it is taking over
    return (
        f"the primary is {newest.primary}, {say} {names}, and it does not answer this client ({silent}): "
        "it has ended, hangs, or the way to it is cut"
    )
