"""The pages, rules and dashboard name series that exist, and all of them."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.alerts.rules import load_rules
from muster.v1 import ranking_pb2
from server import metrics as published
from server.metrics import Metrics
from tests.server.conftest import Pair

ROOT = Path(__file__).parents[2]

# Of parts that only some replicas have: no series without TLS, tokens and an audit log.
ELSEWHERE = {
    "muster_certificate_not_after_seconds",
    "muster_auth_refused_total",
    "muster_audit_broken",
}
PROMETHEUS_ITSELF = {"up", "ALERTS"}

HISTOGRAM = {"bounds": [1.0, 2.0], "buckets": [1, 0, 2], "total": 7.0}
EVERYTHING: dict[str, Any] = {
    **dict.fromkeys(published._GAUGES, 1),
    **dict.fromkeys(published._COUNTERS, 1),
    **{key: {"one": 1} for key in published._LABELLED},
    "drift": {"words": 0.1},
    "info": {"version": "1", "replica": "a", "bundle": "b", "generation": "g"},
    "depth": HISTOGRAM,
    "stage_s": {"late": HISTOGRAM},
}


def exposed() -> set[str]:
    """Names of all series that a replica can expose; of a histogram its own name."""
    everything = Metrics(lambda: EVERYTHING)
    call = everything.call("unary", "s", "m")
    call.finish(call.start(), grpc.StatusCode.OK)
    names = set()
    for family in everything.registry.collect():
        names |= {
            family.name if family.type == "histogram" else sample.name
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
    return names


def documented() -> set[str]:
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_the_page_lists_every_series_and_no_other() -> None:
    assert documented() == exposed()


def test_the_rules_ask_for_series_that_exist() -> None:
    asked = frozenset().union(*(rule.expression.names() for rule in load_rules()))
    assert asked - exposed() - PROMETHEUS_ITSELF == ELSEWHERE


def test_the_dashboard_asks_for_series_that_exist_and_shows_most_of_them() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/muster.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [one["expr"] for one in dashboard["annotations"]["list"]]
    asked = set()
    for query in queries:
        without_labels = re.sub(r"\{[^}]*\}|by \([^)]*\)|\[[^]]*\]", "", query)
        asked |= set(re.findall(r"\b(?:muster|grpc_server|process)_\w+|\bALERTS\b|\bup\b", without_labels))
    named = {re.sub(r"_bucket$", "", name) for name in asked}
    assert named - exposed() == PROMETHEUS_ITSELF
    ours = {name for name in exposed() if name.startswith("muster_")}
    assert len(named & ours) >= 0.6 * len(ours)


def test_histograms_count_up_to_each_bound() -> None:
    page = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in Metrics(lambda: EVERYTHING).registry.collect()
        if family.name == "muster_stage_seconds"
        for sample in family.samples
    }
    assert page == {
        ("muster_stage_seconds_bucket", "1"): 1.0,
        ("muster_stage_seconds_bucket", "2"): 1.0,
        ("muster_stage_seconds_bucket", "+Inf"): 3.0,
        ("muster_stage_seconds_count", None): 3.0,
        ("muster_stage_seconds_sum", None): 7.0,
    }


@pytest.fixture
def page(pair: Pair) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What the primary exposes after twelve searches, by series and labels."""
    for number in range(12):
        pair.primary.ranking.Search(ranking_pb2.SearchRequest(query=f"red shoe {number}"), timeout=5)
    port = re.search(r"metrics on port (\d+)", pair.primary.log())
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_replica_s_counts_of_its_answers_agree_with_each_other(
    page: dict[str, dict[tuple[tuple[str, str], ...], float]],
) -> None:
    def total(name: str) -> float:
        return sum(page[name].values())

    answered = total("muster_answered_total")
    assert answered >= 12
    assert total("muster_answered_by_reason_total") == answered
    assert total("muster_answered_by_tier_total") == answered
    assert total("muster_answered_in_time_total") + total("muster_answered_late_total") == answered
    assert total("muster_depth_count") == answered
    assert page["muster_stage_seconds_count"][(("stage", "total"),)] == answered
    assert 0 < page["muster_stage_seconds_count"][(("stage", "retrieve"),)] <= answered
    assert 0 < total("muster_served_quality_total") <= total("muster_planned_quality_total") <= answered
    assert total("muster_served_quality_in_time_total") <= total("muster_served_quality_total")


def test_a_replica_tells_its_role_its_log_and_its_disk(
    page: dict[str, dict[tuple[tuple[str, str], ...], float]],
) -> None:
    for name in ("muster_primary", "muster_primary_known", "muster_serving"):
        assert page[name][()] == 1.0
    assert page["muster_lag_events"][()] == 0.0
    assert 0.0 <= page["muster_lease_age_seconds"][()] < 60.0
    assert 0.0 < page["muster_disk_free_bytes"][()] <= page["muster_disk_size_bytes"][()]
    assert page["muster_drift_reference_answers"][()] == 0.0
    assert page["process_resident_memory_bytes"][()] > 0.0
    ((labels, one),) = page["muster_info"].items()
    assert one == 1.0
    assert dict(labels)["bundle"]
