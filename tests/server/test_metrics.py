"""What is counted, under the names that dashboards know."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import grpc
from prometheus_client import generate_latest

import rankcore
from muster.v1 import ranking_pb2
from server.metrics import Metrics
from tests.server.conftest import Pair
from tests.server.replica import wait_until


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_a_call_is_counted_at_both_ends_with_its_code() -> None:
    metrics = Metrics(dict)
    call = metrics.call("unary", "s", "m")
    call.finish(call.start(), grpc.StatusCode.OK)
    call.finish(call.start(), grpc.StatusCode.RESOURCE_EXHAUSTED)
    call.start()
    labels = 'grpc_method="m",grpc_service="s",grpc_type="unary"'
    exposed = text(metrics)
    assert f"grpc_server_started_total{{{labels}}} 3.0" in exposed
    assert f"grpc_server_handling_seconds_count{{{labels}}} 2.0" in exposed
    assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in exposed
    assert f'grpc_server_handled_total{{grpc_code="ResourceExhausted",{labels}}} 1.0' in exposed


def test_the_calls_that_the_front_counts_are_exposed_with_the_others() -> None:
    bounds = len(rankcore.front_bounds_s())
    buckets = [0] * (bounds + 1)
    buckets[1], buckets[bounds] = 3, 1
    counted = {
        "Search": {"started": 5, "handled": {0: 3, 8: 1}, "buckets": buckets, "total_s": 7.5},
    }
    metrics = Metrics(dict, front=lambda: counted)
    call = metrics.call("unary", "s", "m")
    call.finish(call.start(), grpc.StatusCode.OK)
    exposed = text(metrics)
    labels = 'grpc_method="Search",grpc_service="muster.v1.RankingService",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 5.0" in exposed
    for code, count in (("OK", 3), ("ResourceExhausted", 1), ("Internal", 0)):
        assert f'grpc_server_handled_total{{grpc_code="{code}",{labels}}} {count}.0' in exposed
    series = 'grpc_method="Search",grpc_service="muster.v1.RankingService",grpc_type="unary",le='
    for bound, count in (("0.001", 0), ("0.0025", 3), ("5.0", 3), ("+Inf", 4)):
        assert f'grpc_server_handling_seconds_bucket{{{series}"{bound}"}} {count}.0' in exposed
    assert f"grpc_server_handling_seconds_count{{{labels}}} 4.0" in exposed
    assert f"grpc_server_handling_seconds_sum{{{labels}}} 7.5" in exposed
    assert exposed.count("# TYPE grpc_server_started_total counter") == 1
    assert 'grpc_server_started_total{grpc_method="m"' in exposed


def test_the_replica_s_numbers_are_read_at_each_look() -> None:
    numbers: dict[str, Any] = {
        "primary": True,
        "answered": 2,
        "answered_by_tier": {"late": 2},
        "refused_by_priority": {"sheddable": 3},
    }
    metrics = Metrics(lambda: numbers)
    assert "muster_primary 1.0" in text(metrics)
    numbers["primary"] = False
    exposed = text(metrics)
    assert "muster_primary 0.0" in exposed
    assert "muster_answered_total 2.0" in exposed
    assert 'muster_answered_by_tier_total{tier="late"} 2.0' in exposed
    assert 'muster_refused_by_priority_total{priority="sheddable"} 3.0' in exposed


def test_a_replica_exposes_its_metrics(pair: Pair) -> None:
    wait_until(lambda: pair.primary.status().HasField("folding"), "a look at the log")
    pair.primary.ranking.Search(ranking_pb2.SearchRequest(query="red shoe"), timeout=5)
    found = re.search(r"metrics on port (\d+)", pair.primary.log())
    assert found is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=10) as response:
        exposed = response.read().decode()
    assert "muster_primary 1.0" in exposed
    assert "muster_fold_failures 0.0" in exposed
    assert re.search(r"muster_store_bytes [1-9]", exposed)
    assert re.search(r"muster_answered_total [1-9]", exposed)
    assert re.search(r'muster_answered_by_priority_total\{priority="default"\} [1-9]', exposed)
    assert 'muster_refused_by_priority_total{priority="critical"} 0.0' in exposed
    assert re.search(r'grpc_server_handled_total\{grpc_code="OK",grpc_method="Search".*\} [1-9]', exposed)
