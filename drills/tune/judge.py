"""What a history of one fault, or of a flood, says of a point. Reads records and nothing else.

Beside the kinds that every judge reads: `epoch_before`, the newest epoch before the load began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from drills.experiment import quantile
from drills.journal import History, Record
from drills.judges.checks import generator_stall_ms, steady_reads
from drills.judges.hang import check_late, check_reigns
from drills.judges.history import OK, check_epochs, check_sessions, check_writes

KILL, HANG, PAUSE = "kill", "hang", "pause"
MAY_TAKE_OVER = {KILL: 1, HANG: 1, PAUSE: 0}
"""How many takeovers each has a reason for."""


@dataclass(frozen=True)
class Step:
    """unavailable_s: from the fault to the first acknowledgement of a write that was due after it; None: not
    asked for. missed, reads: beside the fault. stall_ms: the longest that the generator itself was late.
    doubts: why nothing can be said of it.
    """

    violations: tuple[str, ...]
    missed: int
    reads: int
    stall_ms: float
    unavailable_s: float | None = None
    doubts: tuple[str, ...] = ()


def judge_step(history: History, fault: str, *, read_within_ms: float) -> Step:
    """One fault, KILL, HANG or PAUSE."""
    reads = steady_reads(history)
    within_s = read_within_ms / 1000.0
    missed = sum(read["status"] != OK or read["done_s"] - read["intended_s"] > within_s for read in reads)
    stall_ms = generator_stall_ms(history)
    if history.first("fault") is None:
        failed = [probe["detail"] for probe in history.of("probe") if not probe["held"]]
        why = f"there was no {fault}: {failed[-1] if failed else 'it could not be injected'}"
        return Step((), missed, len(reads), stall_ms, doubts=(why,))
    violations = [*check_epochs(history), *check_sessions(history), *check_reigns(history)]
    violations += [*check_late(history), *false_takeovers(history, fault)]
    doubts = []
    writes = check_writes(history)
    if writes is None:
        doubts.append("the log could not be read to its end")
    else:
        violations += writes.problems()
    away_s = None
    if fault != PAUSE:
        away_s = unavailable_s(history)
        if away_s is None:
            violations.append(f"after a {fault} no write was acknowledged any more")
    return Step(tuple(violations), missed, len(reads), stall_ms, away_s, tuple(doubts))


def unavailable_s(history: History) -> float | None:
    """Seconds from the fault to the first acknowledged write that was due after it; None: there was none."""
    fault = history.first("fault")
    assert fault is not None
    done_s = [
        write["done_s"]
        for write in history.of("write")
        if write["status"] == OK and write["intended_s"] >= fault["at_s"]
    ]
    return round(min(done_s) - fault["at_s"], 4) if done_s else None


def false_takeovers(history: History, fault: str) -> list[str]:
    """A sentence where more reigns began than the fault gave a reason for."""
    before = history.first("epoch_before")
    if before is None:
        return []
    begun = {reign["epoch"] for reign in history.of("reign") if reign["epoch"] > before["epoch"]}
    begun |= {entry["epoch"] for entry in history.of("log") if entry["epoch"] > before["epoch"]}
    extra = len(begun) - MAY_TAKE_OVER[fault]
    if extra <= 0:
        return []
    cause = "a pause that is no fault" if fault == PAUSE else f"one {fault}"
    return [f"{extra} false takeover(s): {len(begun)} reigns began beside {cause}"]


@dataclass(frozen=True)
class Flooded:
    """offered: requests. missed: not answered within the deadline. quality_lost: mean over the answers in
    time, 0 to 1. late_share: of the requests that the generator itself sent late.
    """

    offered: int
    missed: int
    quality_lost: float
    late_share: float


def judge_flood(reads: Sequence[Record], *, deadline_ms: float, late_after_ms: float) -> Flooded:
    """A flood by its reads."""
    in_time = [
        read
        for read in reads
        if read["status"] == OK and (read["done_s"] - read["intended_s"]) * 1000.0 <= deadline_ms
    ]
    kept = sum(read["expected_ndcg"] for read in in_time)
    late = sum((read["sent_s"] - read["intended_s"]) * 1000.0 > late_after_ms for read in reads)
    return Flooded(
        len(reads),
        len(reads) - len(in_time),
        round(1.0 - kept / len(in_time), 6) if in_time else 1.0,
        late / len(reads) if reads else 0.0,
    )


def judge_calm(history: History) -> dict[str, Any] | None:
    """What the starting rules need, of a load without a fault; None where too little was answered."""
    reads = [read for read in steady_reads(history) if read["status"] == OK]
    writes = [write for write in history.of("write") if write["status"] == OK]
    if len(reads) < 20 or len(writes) < 20:
        return None
    took_ms = [(read["done_s"] - read["sent_s"]) * 1000.0 for read in reads]
    overhead_ms = [took - read["ranked_ms"] for took, read in zip(took_ms, reads, strict=True)]
    return {
        "write_p999_ms": round(quantile([(w["done_s"] - w["sent_s"]) * 1000.0 for w in writes], 0.999), 2),
        "writes": len(writes),
        "overhead_p99_ms": round(quantile(overhead_ms, 0.99), 2),
        "service_ms": round(median(read["ranked_ms"] for read in reads), 3),
        "read_p95_ms": round(quantile(took_ms, 0.95), 2),
        "reads": len(reads),
    }
