"""Records of made-up histories."""

from __future__ import annotations

from typing import Any

from drills.journal import Record

ENDED: Record = {"kind": "log_end", "head": 100}


def header(**settings: Any) -> Record:
    return {"kind": "run", "at_s": 0.0, "settings": settings}


def fault(at_s: float, name: str, **fields: Any) -> Record:
    return {"kind": "fault", "at_s": at_s, "fault": name, **fields}


def rollback(at_s: float) -> Record:
    return {"kind": "rollback", "at_s": at_s}


def call(
    kind: str, moment_s: float, status: str = "OK", *, took_s: float, late_s: float = 0.0, **fields: Any
) -> Record:
    return {
        "kind": kind,
        "at_s": moment_s + took_s,
        "intended_s": moment_s,
        "sent_s": moment_s + late_s,
        "done_s": moment_s + took_s,
        "status": status,
        **fields,
    }


def read(
    moment_s: float, status: str = "OK", *, took_s: float = 0.01, late_s: float = 0.0, **fields: Any
) -> Record:
    return call("read", moment_s, status, took_s=took_s, late_s=late_s, expected_ndcg=0.75, **fields)


def direct(
    replica: str, moment_s: float, status: str = "OK", *, took_s: float = 0.01, **fields: Any
) -> Record:
    told = {"asked": replica, "expected_ndcg": 0.75, **fields}
    return call("direct", moment_s, status, took_s=took_s, **told)


def acknowledged(number: int, moment_s: float, *, took_s: float = 0.01, epoch: int = 1) -> Record:
    told = {"event_id": f"w{number}", "sequence": number, "epoch": epoch, "duplicates": 0}
    return call("write", moment_s, took_s=took_s, **told)


def refused(
    number: int,
    moment_s: float,
    *,
    status: str = "Overloaded",
    took_s: float = 0.01,
    outcome: str = "not_written",
) -> Record:
    told = {"event_id": f"w{number}", "outcome": outcome, "reason": "", "detail": "made up"}
    return call("write", moment_s, status, took_s=took_s, **told)


def log(*numbers: int, epoch: int = 1, first: int = 1) -> list[Record]:
    """The writes of these numbers in the log, from the place `first` on."""
    return [
        {"kind": "log", "sequence": place, "epoch": epoch, "event_id": f"w{number}"}
        for place, number in enumerate(numbers, first)
    ]
