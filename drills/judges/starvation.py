"""The judges of drills that leave one replica too little memory, or too little of a core."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, quantile
from drills.journal import History, Record
from drills.judges.checks import recovery_ms
from drills.judges.history import OK
from drills.judges.promises import (
    FIGURES,
    Findings,
    check_promises,
    fault_window,
    sent_within,
    setting,
    unless_stalled,
)
from drills.judges.shares import surely_fewer


@dataclass(frozen=True)
class MemoryLimits:
    """rto_ms: from the beginning of the pressure, which takes a moment to build up, to the first acknowledged
    write of a new primary."""

    rto_ms: float = 3000.0


MEMORY_FIGURES: dict[str, Any] = {
    **FIGURES,
    "victims_ended": 0,
    "others_ended": 0,
    "oom_kills": 0,
    "rto_ms": None,
}


def judge_memory_pressure(history: History, limits: MemoryLimits) -> Judgement:
    """Judges one run. `exit` tells which replicas had ended, and how; `oom` how many the kernel has ended."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in MEMORY_FIGURES.items() if key not in FIGURES})
    fault = history.first("fault")
    if fault is None:
        return found.judgement()
    ended = {record["replica"]: record["code"] for record in history.of("exit")}
    others = sorted(set(ended) - {fault["replica"]})
    figures["victims_ended"] = int(fault["replica"] in ended)
    figures["others_ended"] = len(others)
    figures["oom_kills"] = sum(record["kills"] for record in history.of("oom"))
    figures["rto_ms"] = recovery_ms(history)
    if others:
        found.deviations.append(
            f"the replica did not die alone: {', '.join(others)} ended as well"
            + ("" if figures["victims_ended"] else f", {fault['replica']} did not")
        )
    if not others and ended.get(fault["replica"]) != -signal.SIGKILL:
        found.doubts.append(f"the kernel did not end replica {fault['replica']}: {ended or 'nobody ended'}")
    if not figures["oom_kills"]:
        found.doubts.append("the kernel has ended nobody for want of memory")
    if figures["rto_ms"] is None:
        found.deviations.append("no write was acknowledged by a new primary after the fault")
    elif figures["rto_ms"] > limits.rto_ms:
        unless_stalled(
            found,
            history,
            f"the first write of a new primary was acknowledged {figures['rto_ms']:.0f} ms after the fault, "
            f"more than {limits.rto_ms:g} ms",
        )
    return found.judgement()


@dataclass(frozen=True)
class StarvationLimits:
    """What the judge of a starved replica accepts.

    accepted_in_time_share: of the searches that a replica was asked alone and did not refuse in time, those
    that it answered in time; of each replica. A run counts some hundred of them, so what chance explains is
    accepted. callers_in_time_share: of the searches through the client, which may ask another replica, those
    that were answered in time. learning_s: how long after the fault the replica may take to learn what its
    core can do.
    """

    accepted_in_time_share: float = 0.98
    callers_in_time_share: float = 0.99
    learning_s: float = 2.0


STARVATION_FIGURES: dict[str, Any] = {
    **FIGURES,
    "callers_in_time_share": None,
    "starved_asked": 0,
    "starved_refused": 0,
    "starved_in_time": 0,
    "starved_in_time_share": None,
    "starved_quality": None,
    "starved_quality_before": None,
    "starved_p95_ms": None,
    "others_in_time_share": None,
    "throttled_ms": None,
}
_SILENCES = ("SILENT", "UNSENT", "UNREACHED")
"""Ends of a direct search that are no answer and no refusal."""


@dataclass(frozen=True)
class Asked:
    """What one replica made of the searches that it alone was asked.

    quality: mean expected nDCG share of what was answered in time; None: nothing was.
    """

    asked: int
    refused: int
    in_time: int
    quality: float | None
    p95_ms: float | None

    @property
    def in_time_share(self) -> float | None:
        """Of those that it did not refuse; None: there were none."""
        accepted = self.asked - self.refused
        return round(self.in_time / accepted, 4) if accepted else None


def asked_of(reads: Sequence[Record], deadline_s: float) -> Asked:
    """Counts direct searches. An answer or a refusal that comes after the deadline is a silence."""
    timely = [read for read in reads if read["done_s"] - read["intended_s"] <= deadline_s]
    answers = [read for read in timely if read["status"] == OK]
    refused = [read for read in timely if read["status"] not in (OK, *_SILENCES)]
    took_ms = [(read["done_s"] - read["intended_s"]) * 1000.0 for read in reads if read["status"] == OK]
    return Asked(
        asked=len(reads),
        refused=len(refused),
        in_time=len(answers),
        quality=round(sum(a["expected_ndcg"] for a in answers) / len(answers), 4) if answers else None,
        p95_ms=round(quantile(took_ms, 0.95), 1) if took_ms else None,
    )


def judge_cpu_starvation(history: History, limits: StarvationLimits) -> Judgement:
    """Judges one run. The header's settings give `deadline_ms`; `direct` reads were asked of one replica
    each, `read`s of the client; `throttled` tells how long the starved replica had to stand still.
    """
    found = check_promises(history, every_read=False)
    figures = found.figures
    figures.update({key: value for key, value in STARVATION_FIGURES.items() if key not in FIGURES})
    window = fault_window(history)
    if window is None:
        return found.judgement()
    fault = history.first("fault")
    assert fault is not None
    deadline_s = setting(history, "deadline_ms") / 1000.0
    learnt = (window[0] + limits.learning_s, window[1] - deadline_s)
    throttled = history.first("throttled")
    figures["throttled_ms"] = None if throttled is None else throttled["ms"]
    if not figures["throttled_ms"]:
        found.doubts.append("the replica never had to wait for its core")
    _callers(found, history, learnt, deadline_s, limits)
    direct = sent_within(history.of("direct"), learnt)
    before = [
        read for read in history.of("direct") if read["done_s"] < fault["at_s"] and _is_asked(read, fault)
    ]
    figures["starved_quality_before"] = asked_of(before, deadline_s).quality
    for name in sorted({read["asked"] for read in direct}):
        one = asked_of([read for read in direct if read["asked"] == name], deadline_s)
        starved = name == fault["replica"]
        if starved:
            figures["starved_asked"], figures["starved_refused"] = one.asked, one.refused
            figures["starved_in_time"], figures["starved_in_time_share"] = one.in_time, one.in_time_share
            figures["starved_quality"], figures["starved_p95_ms"] = one.quality, one.p95_ms
        else:
            shares = [figures["others_in_time_share"], one.in_time_share]
            figures["others_in_time_share"] = min(
                (share for share in shares if share is not None), default=None
            )
        if surely_fewer(one.in_time, one.asked - one.refused, limits.accepted_in_time_share):
            unless_stalled(
                found,
                history,
                f"replica {name}{', the starved one,' if starved else ''} answered {one.in_time} of the "
                f"{one.asked - one.refused} searches in time that it did not refuse "
                f"({one.in_time_share:.1%}), surely fewer than {limits.accepted_in_time_share:.0%}",
            )
    if not figures["starved_asked"]:
        found.doubts.append("the starved replica was asked nothing")
    elif not figures["starved_in_time"]:
        found.deviations.append("the starved replica answered nothing in time")
    return found.judgement()


def _is_asked(read: Record, fault: Record) -> bool:
    return bool(read["asked"] == fault["replica"])


def _callers(
    found: Findings,
    history: History,
    window: tuple[float, float],
    deadline_s: float,
    limits: StarvationLimits,
) -> None:
    reads = sent_within(history.of("read"), window)
    if not reads:
        found.doubts.append("no caller read anything during the fault")
        return
    in_time = asked_of(reads, deadline_s).in_time
    found.figures["callers_in_time_share"] = share = round(in_time / len(reads), 4)
    if share < limits.callers_in_time_share:
        unless_stalled(
            found,
            history,
            f"{in_time} of {len(reads)} searches through the client were answered in time, fewer than "
            f"{limits.callers_in_time_share:.0%}",
        )
