"""Roles told through standard health."""

from __future__ import annotations

import threading

import grpc_health.v1.health_pb2 as pb
import pytest

from server import health
from server.health import Health
from tests.server.conftest import Pair
from tests.server.replica import NOT_SERVING, SERVING


def told(tested: Health) -> dict[str, bool]:
    return {name: tested.serving(name) for name in ("", health.RANKING, health.CATALOGUE, health.ADMIN)}


def test_a_starting_replica_serves_only_its_operator() -> None:
    assert told(Health()) == {"": False, health.RANKING: False, health.CATALOGUE: False, health.ADMIN: True}


def test_reading_and_writing_are_told_apart() -> None:
    tested = Health()
    tested.readable(True)
    assert told(tested) == {"": True, health.RANKING: True, health.CATALOGUE: False, health.ADMIN: True}
    tested.writable(True)
    tested.readable(False)
    assert told(tested) == {"": False, health.RANKING: False, health.CATALOGUE: True, health.ADMIN: True}


def test_a_replica_that_leaves_does_not_come_back() -> None:
    tested = Health()
    tested.readable(True)
    tested.leave()
    tested.readable(True)
    tested.writable(True)
    assert not any(told(tested).values())


@pytest.mark.parametrize(
    ("service", "on_primary", "on_standby"),
    [
        ("", SERVING, SERVING),
        ("muster.v1.RankingService", SERVING, SERVING),
        ("muster.v1.CatalogueService", SERVING, NOT_SERVING),
        ("muster.v1.AdminService", SERVING, SERVING),
    ],
)
def test_the_catalogue_is_served_by_the_primary_alone(
    pair: Pair, service: str, on_primary: int, on_standby: int
) -> None:
    assert pair.primary.health(service) == on_primary
    assert pair.standby.health(service) == on_standby


def test_a_watch_tells_at_once_and_holds_no_handler(pair: Pair) -> None:
    request = pb.HealthCheckRequest(service="muster.v1.RankingService")
    # More watches than the server has threads.
    watches = [pair.standby.health_stub.Watch(request) for _ in range(250)]
    assert {next(watch).status for watch in watches} == {SERVING}
    assert pair.standby.status().replica == "b"
    for watch in watches:
        watch.cancel()


def test_the_end_of_a_watch_never_waits_for_another_watch_that_begins() -> None:
    servicer = Health().servicer
    told: list[object] = []
    ended = threading.Event()

    def tell(response: object) -> None:
        told.append(response)
        ended.set()

    servicer._send_response_callbacks["some service"] = {tell}
    end = threading.Thread(target=servicer._on_close_callback(tell, "some service"))
    # As a Watch that begins holds it until the polling thread, here the one that ends a Watch, goes on.
    with servicer._lock:
        end.start()
        end.join(10)
        assert not end.is_alive() and not told
    assert ended.wait(10) and told == [None]
    assert servicer._send_response_callbacks["some service"] == set()
