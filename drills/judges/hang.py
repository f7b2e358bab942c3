"""The judges of replicas that hang: of the primary's replacement, and of reads beside a silent standby.

They read the recorded history and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile
from drills.journal import History
from drills.judges.checks import (
    STALL_MS,
    FailoverLimits,
    failed_reads,
    generator_stall_ms,
    judge_failover,
    judge_failover_runs,
    read_errors,
    steady_reads,
)
from drills.judges.history import NOT_WRITTEN, OK, check_epochs, check_sessions, check_writes

WOKEN = "woken"
KILLED = "killed"


def check_reigns(history: History) -> list[str]:
    """Sentences for every epoch that more than one replica says it was primary of."""
    holders: dict[int, set[str]] = defaultdict(set)
    for reign in history.of("reign"):
        holders[reign["epoch"]].add(reign["replica"])
    return [
        f"epoch {epoch} had more than one primary: {', '.join(sorted(names))}"
        for epoch, names in sorted(holders.items())
        if len(names) > 1
    ]


def check_late(history: History) -> list[str]:
    """Sentences for everything that a stopped primary did with the writes that waited for its waking.

    It may write them in a reign of its own that begins later; in the one that it was stopped in only while
    nobody else had begun another.
    """
    rollback = history.first("rollback")
    fault = history.first("fault")
    if rollback is None or fault is None:
        return []
    acknowledged = [write for write in history.of("write") if write["status"] == OK]
    before = max((write["epoch"] for write in acknowledged if write["done_s"] <= fault["at_s"]), default=0)
    replaced = any(w["epoch"] > before and w["done_s"] <= rollback["at_s"] for w in acknowledged)
    places = {entry["event_id"]: entry for entry in history.of("log")}
    known = history.first("log_end") is not None
    problems = []
    for late in rollback.get("late", []):
        entry = places.get(late["event_id"])
        told = f"the late write {late['event_id']}"
        if late["status"] == OK:
            if replaced and late["epoch"] <= before:
                problems.append(f"{told} was acknowledged in epoch {late['epoch']}, which was over")
            if known and (entry is None or entry["sequence"] != late["sequence"]):
                problems.append(f"{told} was acknowledged, but is not in the log at {late['sequence']}")
        elif late["outcome"] == NOT_WRITTEN and entry is not None:
            problems.append(f"{told} ended as not written, but is in the log")
        if entry is not None and replaced and entry["epoch"] <= before:
            problems.append(f"{told} is in the log in epoch {entry['epoch']}, which was over")
    return problems


def judge_hang(history: History) -> Judgement:
    """Judges one run: as a failover, and that the stopped primary did nothing when its reign was over."""
    base = judge_failover(history)
    rollback = history.first("rollback") or {}
    late = rollback.get("late", [])
    figures = {
        **base.figures,
        "killed": int(rollback.get("ended") == KILLED),
        "woken": int(rollback.get("ended") == WOKEN),
        "late_writes": len(late),
        "late_acknowledged": sum(write["status"] == OK for write in late),
    }
    if history.first("fault") is None:
        return Judgement(base.verdict, figures, base.reasons)
    deviations = [*check_reigns(history), *check_late(history)]
    told = {reign["epoch"] for reign in history.of("reign")}
    silent = sorted({entry["epoch"] for entry in history.of("log")} - told)
    doubts = [f"no replica tells that it was primary of epoch {epoch}" for epoch in silent]
    if deviations:
        kept = base.reasons if base.verdict is Verdict.DEVIATED else ()
        return Judgement(Verdict.DEVIATED, figures, (*kept, *deviations))
    if doubts and base.verdict is not Verdict.DEVIATED:
        return Judgement(Verdict.INCONCLUSIVE, figures, (*base.reasons, *doubts))
    return Judgement(base.verdict, figures, base.reasons)


def judge_hang_runs(runs: Sequence[Judgement], limits: FailoverLimits) -> Judgement:
    """The verdict over all runs, with the figures that `--json` prints (`drill`, `verdict` and `runs`
    aside)."""
    judgement = judge_failover_runs(runs, limits)
    counted = {
        name: sum(run.figures.get(name, 0) for run in runs)
        for name in ("killed", "woken", "late_writes", "late_acknowledged")
    }
    return Judgement(judgement.verdict, {**judgement.figures, **counted}, judgement.reasons)


@dataclass(frozen=True)
class StandbyHangLimits:
    """What the judge of a silent standby accepts.

    read_p99_ms: of the reads that were due while the standby was stopped.
    """

    read_p99_ms: float = 100.0


def latencies_ms(history: History, *, during: bool) -> list[float]:
    """Of the reads that were due between fault and rollback, or else between the steady state and the fault:
    milliseconds from the moment when each was due. One that was not answered took for ever.
    """
    fault, rollback = history.first("fault"), history.first("rollback")
    if fault is None or rollback is None:
        return []
    begin_s, end_s = (fault["at_s"], rollback["at_s"]) if during else (0.0, fault["at_s"])
    return [
        (read["done_s"] - read["intended_s"]) * 1000.0 if read["status"] == OK else float("inf")
        for read in steady_reads(history)
        if begin_s <= read["intended_s"] < end_s
    ]


def judge_standby_hang(history: History, limits: StandbyHangLimits) -> Judgement:
    """Judges one run: no read fails, few are slow, and nothing becomes of the writes."""
    during, base = latencies_ms(history, during=True), latencies_ms(history, during=False)
    p99_ms = quantile(during, 0.99) if during else None
    base_p99_ms = quantile(base, 0.99) if base else None
    errors = read_errors(history)
    writes = check_writes(history)
    epochs = check_epochs(history)
    figures: dict[str, Any] = {
        "reads": len(steady_reads(history)),
        "read_errors": len(errors),
        "reads_during": len(during),
        "read_p99_ms": _shown(p99_ms),
        "slowest_read_ms": _shown(max(during, default=None)),
        "base_read_p99_ms": _shown(base_p99_ms),
        "writes_acknowledged": 0 if writes is None else writes.acknowledged,
        "write_errors": sum(write["status"] != OK for write in history.of("write")),
        "writes_lost": 0 if writes is None else len(writes.lost),
        "writes_doubled": 0 if writes is None else len(writes.doubled),
        "epochs_monotone": not epochs,
    }
    if history.first("fault") is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no fault was injected",))
    failed, doubts = failed_reads(history)
    deviations = [*epochs, *check_sessions(history), *failed]
    if writes is None:
        doubts.append("the log could not be read to its end, so nothing is known of lost writes")
    else:
        deviations += writes.problems()
    stall_ms = generator_stall_ms(history)
    if p99_ms is None:
        doubts.append("no read was due while the standby was stopped")
    elif p99_ms > limits.read_p99_ms:
        took = "for ever" if p99_ms == float("inf") else f"{p99_ms:.0f} ms"
        sentence = f"reads took {took} (99th percentile), more than {limits.read_p99_ms:.0f} ms"
        busy = stall_ms > STALL_MS or (base_p99_ms or 0.0) > limits.read_p99_ms
        if busy and not deviations:
            doubts.append(
                f"{sentence}, but this machine kept the load generator itself waiting for up to "
                f"{stall_ms:.0f} ms, and reads took {base_p99_ms or 0.0:.0f} ms before the fault: too busy"
            )
        else:
            deviations.append(sentence)
    if deviations:
        return Judgement(Verdict.DEVIATED, figures, tuple(deviations))
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, figures, tuple(doubts))
    return Judgement(Verdict.HELD, figures)


def _shown(value_ms: float | None) -> float | None:
    return None if value_ms is None or value_ms == float("inf") else round(value_ms, 1)
