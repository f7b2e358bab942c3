"""Status as an operator sees it."""

from __future__ import annotations

import grpc
import pytest

from muster.v1 import admin_pb2
from tests.server.conftest import Pair
from tests.server.replica import upsert, wait_until


def test_status_tells_role_and_progress(pair: Pair) -> None:
    sequence = pair.primary.apply(upsert("status", "a status lamp")).sequence
    primary = pair.primary.status()
    assert primary.role == admin_pb2.ROLE_PRIMARY
    assert (primary.replica, primary.primary, primary.pid) == ("a", "a", pair.primary.process.pid)
    assert primary.applied_sequence >= sequence
    assert primary.head_sequence >= sequence
    assert primary.products >= 60
    assert primary.serving
    assert not primary.building
    wait_until(lambda: pair.standby.status().applied_sequence >= sequence, "the standby follows")
    standby = pair.standby.status()
    assert standby.role == admin_pb2.ROLE_STANDBY
    assert (standby.replica, standby.primary) == ("b", "a")
    assert standby.epoch == primary.epoch >= 1
    assert standby.bundle_id == primary.bundle_id
    assert standby.staleness_ms < 2_000
    assert standby.uptime_ms > 0


def test_status_tells_how_the_log_is_kept_within_its_bounds(pair: Pair) -> None:
    # A first look may come before the first event.
    wait_until(lambda: pair.primary.status().folding.first_sequence > 0, "a look at the log")
    folding = pair.primary.status().folding
    assert folding.first_sequence == 1
    assert folding.store_bytes > 10_000
    assert folding.first_committed_unix_us > 10**15
    assert (folding.folded_events, folding.failures, folding.problem) == (0, 0, "")
    assert not folding.HasField("last_fold_unix_us")
    assert not pair.standby.status().HasField("folding"), "it may never be primary"


def test_status_lists_the_plans_with_their_cost_and_the_price_of_time(pair: Pair) -> None:
    status = pair.primary.status()
    plans = status.plans
    assert status.price >= 0.0
    assert {"lexical", "late"} <= {plan.tier for plan in plans}
    assert all(plan.cost_ms > 0 for plan in plans)


def test_bytes_that_are_no_message_are_refused(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.channel.unary_unary("/muster.v1.AdminService/Status")(b"\x0a\xff", timeout=5)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
