"""Leave for drills, as one replica gives it: on a clock of the test's own, and through a real server."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from muster.v1 import admin_pb2_grpc, drill_pb2
from server.drills import SILENT_S, Asked, Drills
from server.errors import DrillBusy, DrillRefused
from tests.server.conftest import Pair

ONE = Asked("one", "deadline_storm", "flood", replicas=1, rate_per_s=50.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drills(clock: Clock) -> Drills:
    return Drills(["flood"], replicas_max=1, rate_max_per_s=50.0, clock=clock)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (replace(ONE, fault="latency"), "drills.allowed: flood"),
        (replace(ONE, replicas=2), "drills.blast_radius_replicas is 1"),
        (replace(ONE, rate_per_s=50.1), "drills.rate_max_per_s is 50"),
    ],
)
def test_what_is_not_allowed_is_refused(drills: Drills, asked: Asked, sentence: str) -> None:
    with pytest.raises(DrillRefused, match=sentence):
        drills.begin(asked)
    assert drills.under_way() is None


def test_there_is_one_drill_at_a_time(drills: Drills, clock: Clock) -> None:
    assert drills.begin(ONE) is False
    clock.now_s += 1.0
    with pytest.raises(DrillBusy, match="deadline_storm"):
        drills.begin(replace(ONE, drill_id="two"))
    assert drills.under_way() == (ONE, 1.0)
    drills.end("two")
    assert drills.under_way() is not None, "only its own end ends it"
    drills.end("one")
    assert drills.begin(replace(ONE, drill_id="two")) is False


def test_a_drill_may_not_do_more_than_it_began_with(drills: Drills) -> None:
    drills.begin(replace(ONE, rate_per_s=10.0))
    with pytest.raises(DrillBusy):
        drills.begin(ONE)


def test_one_that_falls_silent_has_ended(drills: Drills, clock: Clock) -> None:
    drills.begin(ONE)
    clock.now_s += SILENT_S
    assert drills.begin(ONE) is False, "it was heard of in time"
    clock.now_s += SILENT_S + 0.1
    assert drills.under_way() is None
    assert drills.abort() == ""
    assert drills.begin(replace(ONE, drill_id="two")) is False


def test_one_that_is_aborted_hears_of_it_until_it_ends(drills: Drills) -> None:
    drills.begin(ONE)
    assert drills.abort() == "one"
    assert drills.under_way() is None
    assert drills.begin(ONE) is True
    assert drills.begin(replace(ONE, drill_id="two")) is False, "the service is free again"
    assert drills.begin(ONE) is True
    drills.end("one")


def test_a_replica_allows_nothing_unless_it_is_told_to(pair: Pair) -> None:
    stub = admin_pb2_grpc.AdminServiceStub(pair.primary.channel)
    told = stub.DrillStatus(drill_pb2.DrillStatusRequest(), timeout=5)
    assert (list(told.allowed), told.blast_radius_replicas, told.drill_id) == ([], 1, "")
    asked = drill_pb2.BeginDrillRequest(drill_id="one", drill="hot_key", fault="flood", replicas=1)
    with pytest.raises(grpc.RpcError) as refused:
        stub.BeginDrill(asked, timeout=5)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert stub.AbortDrill(drill_pb2.AbortDrillRequest(), timeout=5).drill_id == ""
    stub.EndDrill(drill_pb2.EndDrillRequest(drill_id="one"), timeout=5)


def test_fields_that_say_nothing_are_named(pair: Pair) -> None:
    stub = admin_pb2_grpc.AdminServiceStub(pair.primary.channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.BeginDrill(drill_pb2.BeginDrillRequest(rate_per_s=float("nan")), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for field in ("drill_id", "drill", "fault", "replicas", "rate_per_s"):
        assert field in refused.value.details()
