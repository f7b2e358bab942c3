"""Runs and histories, made up."""

from __future__ import annotations

from typing import Any

from drills.journal import History, Record
from drills.report.records import Run


def run(drill: str = "failover", *, verdict: str = "held", rto_ms: float = 50.0, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "drill": drill,
        "verdict": verdict,
        "reason": "" if verdict == "held" else "a read failed",
        "ended_unix_s": 1_700_000_000.0,
        "folder": "gone/run",
        "version": "0.1.0",
        "figures": {"rto_ms": {"min": 40.0, "p50": rto_ms, "max": 90.0}, "writes_lost": 0, "runs": 5},
        "details": {"each": [{"verdict": verdict, "rto_ms": rto_ms + number} for number in range(5)]},
        "machine": {"cpu": "a processor", "cores": 2, "kernel": "6.1"},
        "noise": {"fsync_p99_ms": 3.25, "cpu_pressure": 0.5},
    }
    return Run(**{**values, **changes})


def read(at_s: float, *, took_s: float = 0.01, status: str = "OK", ndcg: float = 1.0) -> Record:
    return {
        "kind": "read",
        "at_s": at_s + took_s,
        "intended_s": at_s,
        "sent_s": at_s + 0.002,
        "done_s": at_s + took_s,
        "status": status,
        "tier": "late",
        "expected_ndcg": ndcg,
        "replica": "a",
        "epoch": 1,
    }


def write(at_s: float, sequence: int, *, epoch: int = 1, status: str = "OK") -> Record:
    return {
        "kind": "write",
        "at_s": at_s + 0.01,
        "intended_s": at_s,
        "sent_s": at_s,
        "done_s": at_s + 0.01,
        "status": status,
        "event_id": f"e-{sequence}",
        "sequence": sequence,
        "epoch": epoch,
        "duplicates": 0,
    }


def history(*records: Record, deadline_ms: float | None = 100.0) -> History:
    settings = {} if deadline_ms is None else {"read_deadline_ms": deadline_ms}
    return History(({"kind": "run", "at_s": 0.0, "settings": settings}, *records))
