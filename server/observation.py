"""What a replica publishes of itself, by the names that ``server.metrics`` knows: plain numbers out of what
its parts say, read when somebody looks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.v1 import admin_pb2, deploy_pb2
from server.catalogue.appending import LogWriterStats
from server.drift import Drift, Drifted
from server.generation.open import MANIFEST

_ROLLED_BACK = (deploy_pb2.DEPLOY_PHASE_ROLLING_BACK, deploy_pb2.DEPLOY_PHASE_ROLLED_BACK)


def of_status(status: admin_pb2.StatusResponse) -> dict[str, Any]:
    """What the status says, while the replica loads as well."""
    numbers: dict[str, Any] = {
        "primary": status.role == admin_pb2.ROLE_PRIMARY,
        "primary_known": bool(status.primary),
        "serving": status.serving,
        "epoch": status.epoch,
        "head_sequence": status.head_sequence,
        "applied_sequence": status.applied_sequence,
        "lag_events": status.head_sequence - status.applied_sequence,
        "staleness_s": status.staleness_ms / 1000,
        "products": status.products,
        "delta_products": status.delta_products,
        "in_flight": status.in_flight,
        "building": status.building,
        "info": {
            "version": status.version,
            "replica": status.replica,
            "bundle": status.bundle_id,
            "generation": status.generation_id,
        },
    }
    if status.HasField("deploy"):
        numbers["deploy_rolled_back"] = status.deploy.phase in _ROLLED_BACK
    if status.HasField("dense_index"):
        numbers["generation_recall"] = status.dense_index.recall_at_100
    if status.HasField("folding"):
        numbers["fold_failures"] = status.folding.failures
        numbers["folded_events"] = status.folding.folded_events
        numbers["store_bytes"] = status.folding.store_bytes
    return numbers


def of_engine(status: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rankcore.Engine.status()`` counts."""
    counters, accounted = dict(status["counters"]), status["accounted"]
    return {
        "answered_by_tier": dict(counters.pop("by_tier")),
        **counters,
        "answered_by_reason": dict(accounted["reasons"]),
        "answered_by_taste": dict(accounted["tastes"]),
        "answered_in_time": accounted["in_time"],
        "answered_late": accounted["late"],
        "planned_quality": accounted["planned_worth"],
        "served_quality": accounted["worth"],
        "served_quality_in_time": accounted["worth_in_time"],
        "depth": accounted["depth"],
        "stage_s": accounted["stages_s"],
        "price": status["price"],
        "queued": status["queued"],
        "workers": status["workers"],
    }


def of_drift(drift: Drift, bundle_id: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """How far the queries have moved, as of ``rankcore.Engine.status()``."""
    found: Drifted = drift.look(time.monotonic(), bundle_id, status["accounted"]["distributions"])
    return {"drift": dict(found.index), "drift_reference": found.reference}


def of_writer(stats: LogWriterStats) -> dict[str, Any]:
    """What the writer of the log counts."""
    return {
        "commits": stats.commits,
        "appended_events": stats.events,
        "shed_events": stats.shed,
        "queued_events": stats.queued_events,
        "commit_s": stats.commit_ms / 1000,
    }


def of_disk(data_dir: Path) -> dict[str, Any]:
    """Room where the data are; nothing where the system does not say."""
    try:
        usage = shutil.disk_usage(data_dir)
    except OSError:
        return {}
    return {"disk_free_bytes": usage.free, "disk_size_bytes": usage.total}


def of_generation(generations: Path, generation_id: str) -> dict[str, Any]:
    """The age of a generation; nothing for the empty one, or one that was removed meanwhile."""
    try:
        written = (generations / generation_id / MANIFEST).stat().st_mtime if generation_id else None
    except OSError:
        written = None
    return {} if written is None else {"generation_age_s": max(0.0, time.time() - written)}
