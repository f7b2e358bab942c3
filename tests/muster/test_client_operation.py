"""What a client can see of a primary that its writes do not reach."""

from __future__ import annotations

import pytest

from muster.client.errors import MusterError, NotAllowed, Unavailable
from muster.client.operation import ReplicaStatus, out_of_sight
from muster.v1 import admin_pb2

PRIMARY, STANDBY = admin_pb2.ROLE_PRIMARY, admin_pb2.ROLE_STANDBY


def answers(name: str, primary: str, *, epoch: int = 3, role: admin_pb2.Role = STANDBY) -> ReplicaStatus:
    status = admin_pb2.StatusResponse(replica=name, primary=primary, epoch=epoch, role=role)
    return ReplicaStatus(f"{name}:1", status, None)


def fails(name: str, error: MusterError) -> ReplicaStatus:
    return ReplicaStatus(f"{name}:1", None, error)


GONE = fails("a", Unavailable("gone"))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], ""),
        ([GONE], "no replica answers this client (a:1)"),
        (
            [GONE, answers("b", "a"), answers("c", "a")],
            "the primary is a, say b, c, and it does not answer this client (a:1)",
        ),
        # One that fell behind knows an older reign.
        ([GONE, answers("b", "c", epoch=2), answers("d", "a")], "the primary is a, say b, d"),
        ([GONE, answers("b", "")], "no replica has the lease at the moment, says b"),
        # There is one that it can reach, or will soon: something else kept the write.
        ([GONE, answers("b", "b", role=PRIMARY)], ""),
        ([GONE, answers("b", "b")], ""),
        # Who may write need not be allowed to ask.
        ([fails("a", NotAllowed("no")), fails("b", NotAllowed("no"))], ""),
    ],
)
def test_what_keeps_a_write_from_its_primary_is_told_as_far_as_it_is_known(
    found: list[ReplicaStatus], words: str
) -> None:
    told = out_of_sight(found)
    assert told.startswith(words) and bool(told) == bool(words)
