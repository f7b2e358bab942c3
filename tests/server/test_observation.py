"""What a replica publishes of itself, out of what its parts say."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from muster.v1 import admin_pb2, deploy_pb2
from server import metrics, observation
from server.drift import Drift, DriftPolicy
from server.metrics import Metrics

HISTOGRAM = {"bounds": [0.0, 10.0], "buckets": [1, 2, 0], "total": 20.0}
ENGINE: dict[str, Any] = {
    "in_flight": 1,
    "queued": 2,
    "workers": 2,
    "price": 0.25,
    "counters": {
        "answered": 3,
        "refused": 1,
        "expired": 0,
        "cancelled": 0,
        "invalid": 4,
        "failed": 0,
        "part_failures": 0,
        "by_tier": {"late": 2, "lexical": 1},
        "answered_by_priority": {"default": 3},
        "refused_by_priority": {"sheddable": 1},
        "helped_chunks": 0,
        "recommended_by_tier": {"similar": 5},
        "recommended_by_reason": {"history": 5},
    },
    "accounted": {
        "reasons": {"best": 2, "load": 1},
        "tastes": {"applied": 2, "unknown": 0},
        "depth": HISTOGRAM,
        "stages_s": {"retrieve": HISTOGRAM},
        "planned_worth": 3.0,
        "worth": 2.5,
        "worth_in_time": 1.5,
        "in_time": 2,
        "late": 1,
        "distributions": {"words": [0, 600, 0]},
    },
}


def test_what_the_engine_counts_reaches_the_page() -> None:
    page = generate_latest(Metrics(lambda: observation.of_engine(ENGINE)).registry).decode()
    for line in (
        'muster_answered_by_reason_total{reason="load"} 1.0',
        'muster_answered_by_taste_total{taste="applied"} 2.0',
        'muster_answered_by_tier_total{tier="late"} 2.0',
        'muster_recommended_total{tier="similar"} 5.0',
        'muster_recommended_by_reason_total{reason="history"} 5.0',
        "muster_answered_in_time_total 2.0",
        "muster_answered_late_total 1.0",
        "muster_planned_quality_total 3.0",
        "muster_served_quality_total 2.5",
        "muster_served_quality_in_time_total 1.5",
        "muster_invalid_total 4.0",
        "muster_price 0.25",
        "muster_queued 2.0",
        'muster_depth_bucket{le="10"} 3.0',
        'muster_stage_seconds_count{stage="retrieve"} 3.0',
    ):
        assert line in page


def test_the_status_tells_role_lag_and_what_is_served() -> None:
    status = admin_pb2.StatusResponse(
        replica="a",
        role=admin_pb2.ROLE_PRIMARY,
        primary="a",
        bundle_id="b1",
        head_sequence=9,
        applied_sequence=7,
    )
    numbers = observation.of_status(status)
    assert (numbers["primary"], numbers["primary_known"], numbers["lag_events"]) == (True, True, 2)
    assert "deploy_rolled_back" not in numbers
    assert "generation_recall" not in numbers
    page = generate_latest(Metrics(lambda: numbers).registry).decode()
    assert 'muster_info{bundle="b1",generation="",replica="a",version=""} 1.0' in page


@pytest.mark.parametrize(
    ("phase", "told"),
    [
        (deploy_pb2.DEPLOY_PHASE_CANARY, False),
        (deploy_pb2.DEPLOY_PHASE_ROLLING_BACK, True),
        (deploy_pb2.DEPLOY_PHASE_ROLLED_BACK, True),
        (deploy_pb2.DEPLOY_PHASE_DONE, False),
    ],
)
def test_a_deploy_that_went_back_is_told_until_the_next_one(phase: Any, told: bool) -> None:
    status = admin_pb2.StatusResponse(deploy=deploy_pb2.Deploy(phase=phase))
    assert observation.of_status(status)["deploy_rolled_back"] is told


def test_a_generation_has_an_age_and_the_empty_one_has_none(tmp_path: Path) -> None:
    manifest = tmp_path / "g1" / observation.MANIFEST
    manifest.parent.mkdir()
    manifest.write_text("{}", encoding="utf-8")
    hour_ago_s = time.time() - 3600.0
    os.utime(manifest, (hour_ago_s, hour_ago_s))
    assert observation.of_generation(tmp_path, "g1")["generation_age_s"] >= 3600.0
    assert observation.of_generation(tmp_path, "g2") == {}
    assert observation.of_generation(tmp_path, "") == {}


def test_room_is_told_where_the_system_tells_it(tmp_path: Path) -> None:
    found = observation.of_disk(tmp_path)
    assert 0 < found["disk_free_bytes"] <= found["disk_size_bytes"]
    assert observation.of_disk(tmp_path / "nowhere") == {}


def test_drift_is_told_once_there_is_a_reference(tmp_path: Path) -> None:
    drift = Drift(tmp_path, DriftPolicy(reference_answers=500, window_s=60.0, window_answers=100))
    assert observation.of_drift(drift, "b1", ENGINE)["drift_reference"] == 600
    # The reference lies within the window still.
    assert observation.of_drift(drift, "b1", ENGINE)["drift"] == {"words": 0.0}


def test_every_number_that_is_told_has_a_series(tmp_path: Path) -> None:
    drift = Drift(tmp_path, DriftPolicy(reference_answers=500, window_s=60.0, window_answers=100))
    told = {
        **observation.of_status(admin_pb2.StatusResponse()),
        **observation.of_engine(ENGINE),
        **observation.of_drift(drift, "b1", ENGINE),
        **observation.of_disk(tmp_path),
    }
    known = {*metrics._GAUGES, *metrics._COUNTERS, *metrics._LABELLED, "drift", "info", "depth", "stage_s"}
    assert set(told) <= known
