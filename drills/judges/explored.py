"""The judge of faults in combination: promises that hold whatever breaks, as long as one replica is sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile
from drills.journal import History, Record
from drills.judges.history import OK, check_epochs, check_sessions, check_writes


@dataclass(frozen=True)
class ExploreLimits:
    """back_s: from the undoing of the last fault until a write is acknowledged that was sent after it.
    read_error_share_max: of the reads; a read has a fraction of a second, in which the client may have to
    find the one replica that is left.
    """

    back_s: float = 5.0
    read_error_share_max: float = 0.02


def judge_explored(history: History, limits: ExploreLimits) -> Judgement:
    """One schedule."""
    reads, writes = history.of("read"), history.of("write")
    errors = [read for read in reads if read["status"] != OK]
    found = check_writes(history)
    back_s = seconds_back(history)
    answered = [(read["done_s"] - read["intended_s"]) * 1000.0 for read in reads if read["status"] == OK]
    figures: dict[str, Any] = {
        "faults": _faults(history),
        "back_s": back_s,
        "writes_acknowledged": 0 if found is None else found.acknowledged,
        "writes_lost": 0 if found is None else len(found.lost),
        "writes_doubled": 0 if found is None else len(found.doubled),
        "writes_unacknowledged": sum(write["status"] != OK for write in writes),
        "reads": len(reads),
        "read_errors": len(errors),
        "read_p99_ms": round(quantile(answered, 0.99), 1) if answered else None,
    }
    deviations = [*check_epochs(history), *check_sessions(history)]
    if found is not None:
        deviations += found.problems()
    if len(errors) > limits.read_error_share_max * len(reads):
        deviations.append(
            f"{len(errors)} of {len(reads)} reads were not answered, first {errors[0]['status']}"
        )
    if back_s is None:
        deviations.append("no write was acknowledged after the last fault was undone")
    elif back_s > limits.back_s:
        deviations.append(
            f"writes were back {back_s:.1f} s after the last fault was undone, not in {limits.back_s:g} s"
        )
    if deviations:
        return Judgement(Verdict.DEVIATED, figures, tuple(deviations))
    if found is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("the log could not be read to its end",))
    if not reads or not found.acknowledged:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("there was no load to judge by",))
    return Judgement(Verdict.HELD, figures)


def seconds_back(history: History) -> float | None:
    """From the undoing of the last fault to the first acknowledgement of a write sent after it; None: none
    came."""
    undone = history.first("rollback")
    if undone is None:
        return None
    done = [
        float(write["done_s"])
        for write in history.of("write")
        if write["status"] == OK and write["sent_s"] >= undone["at_s"]
    ]
    return round(min(done) - float(undone["at_s"]), 3) if done else None


def _faults(history: History) -> int:
    fault: Record | None = history.first("fault")
    return 0 if fault is None else sum(step["replica"] is not None for step in fault.get("steps", ()))
