"""The judges of drills on the disk below the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, quantile
from drills.journal import History, Record
from drills.judges.checks import recovery_ms
from drills.judges.history import NOT_WRITTEN, OK
from drills.judges.promises import (
    FIGURES,
    Findings,
    check_promises,
    fault_window,
    sent_within,
    setting,
    unless_stalled,
)

REFUSED = "Overloaded"
"""How the client names RESOURCE_EXHAUSTED: shed, or a full disk."""


@dataclass(frozen=True)
class SlowDiskLimits:
    """What the judge of a slow disk accepts.

    in_time_share: of the reads that were sent during the fault. overrun_ms: how much longer than its deadline
    a caller may wait for a write's outcome. learning_s: how long after the fault the log may still take more
    writes than it will write in time. refused_share: after that, of the writes that were not acknowledged,
    those that were told before their deadline that nothing was written. recovery_ms: from the end of the
    fault to the last write that failed.
    """

    in_time_share: float = 0.99
    overrun_ms: float = 250.0
    learning_s: float = 3.0
    refused_share: float = 0.9
    recovery_ms: float = 3000.0


SLOW_DISK_FIGURES: dict[str, Any] = {
    **FIGURES,
    "reads_in_time_share": None,
    "syncs_delayed": 0,
    "fault_writes": 0,
    "fault_writes_acknowledged": 0,
    "fault_writes_refused": 0,
    "fault_writes_unanswered": 0,
    "slowest_outcome_ms": None,
    "writes_back_ms": None,
}


def judge_slow_disk(history: History, limits: SlowDiskLimits) -> Judgement:
    """Judges one run. The header's settings give `read_deadline_ms`, `write_deadline_ms` and `delay_ms`."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in SLOW_DISK_FIGURES.items() if key not in FIGURES})
    window = fault_window(history)
    if window is None:
        return found.judgement()
    figures["syncs_delayed"] = sum(record["calls"] for record in history.of("tampered"))
    _reads_in_time(found, history, window, limits.in_time_share)
    deadline_ms = setting(history, "write_deadline_ms")
    writes = sent_within(history.of("write"), window)
    acknowledged = [write for write in writes if write["status"] == OK]
    failed = [write for write in writes if write["status"] != OK]
    refused = [write for write in failed if write["status"] == REFUSED]
    figures["fault_writes"] = len(writes)
    figures["fault_writes_acknowledged"] = len(acknowledged)
    figures["fault_writes_refused"] = len(refused)
    figures["fault_writes_unanswered"] = len(failed) - len(refused)
    waits_ms = [(write["done_s"] - write["intended_s"]) * 1000.0 for write in writes]
    figures["slowest_outcome_ms"] = round(max(waits_ms), 1) if waits_ms else None
    silent = sum(wait > deadline_ms + limits.overrun_ms for wait in waits_ms)
    if silent:
        unless_stalled(
            found,
            history,
            f"{silent} of {len(writes)} writes had no outcome {limits.overrun_ms:g} ms after their deadline "
            f"of {deadline_ms:g} ms; the slowest took {max(waits_ms):.0f} ms",
        )
    late_failed = [write for write in failed if write["intended_s"] >= window[0] + limits.learning_s]
    told = sum(write["status"] == REFUSED and write["outcome"] == NOT_WRITTEN for write in late_failed)
    if late_failed and told < limits.refused_share * len(late_failed):
        found.deviations.append(
            f"of {len(late_failed)} writes beyond what the disk could do, {told} were refused; the others "
            "heard nothing before their deadline"
        )
    _writes_back(found, history, window[1], limits.recovery_ms)
    if not figures["syncs_delayed"]:
        found.doubts.append("no sync was delayed")
    elif acknowledged:
        took_ms = quantile([(write["done_s"] - write["sent_s"]) * 1000.0 for write in acknowledged], 0.5)
        if took_ms < setting(history, "delay_ms"):
            found.doubts.append(f"the delay was not felt: half of the writes took at most {took_ms:.0f} ms")
    if not late_failed:
        found.doubts.append("the disk kept up with all writes: offer more (--writes)")
    return found.judgement()


def _reads_in_time(
    found: Findings, history: History, window: tuple[float, float], in_time_share: float
) -> None:
    deadline_s = setting(history, "read_deadline_ms") / 1000.0
    reads = sent_within(history.of("read"), window)
    if not reads:
        found.doubts.append("no read was sent during the fault")
        return
    in_time = sum(
        read["status"] == OK and read["done_s"] - read["intended_s"] <= deadline_s for read in reads
    )
    found.figures["reads_in_time_share"] = round(in_time / len(reads), 4)
    if in_time < in_time_share * len(reads):
        unless_stalled(
            found,
            history,
            f"{in_time} of {len(reads)} reads during the fault were answered in time, fewer than "
            f"{in_time_share:.0%}",
        )


def _writes_back(found: Findings, history: History, rollback_s: float, limit_ms: float) -> None:
    """Sets "writes_back_ms": from the rollback to the last write that failed, or to the first one that was
    acknowledged, whichever is later.
    """
    since = [write for write in history.of("write") if write["done_s"] >= rollback_s]
    good = [write["done_s"] for write in since if write["status"] == OK and write["sent_s"] >= rollback_s]
    bad = [write["done_s"] for write in since if write["status"] != OK]
    if not good:
        found.deviations.append("no write was acknowledged after the fault")
        return
    back_ms = round((max([min(good), *bad]) - rollback_s) * 1000.0, 1)
    found.figures["writes_back_ms"] = back_ms
    if back_ms > limit_ms:
        unless_stalled(
            found,
            history,
            f"writes were back {back_ms:.0f} ms after the fault had ended, more than {limit_ms:g} ms",
        )


@dataclass(frozen=True)
class DiskFullLimits:
    """What the judge of a full disk accepts.

    grace_s: how long after the last byte was taken writes may still find room that the log has kept.
    refused_share: of the writes after that, those that were refused as RESOURCE_EXHAUSTED. overrun_ms: as for
    a slow disk. recovery_ms: from the making of room to the last write that failed.
    """

    grace_s: float = 1.0
    refused_share: float = 0.99
    overrun_ms: float = 250.0
    recovery_ms: float = 3000.0


DISK_FULL_FIGURES: dict[str, Any] = {
    **FIGURES,
    "fault_writes": 0,
    "fault_writes_acknowledged": 0,
    "fault_writes_refused": 0,
    "fault_writes_other": 0,
    "slowest_outcome_ms": None,
    "writes_back_ms": None,
}


def judge_disk_full(history: History, limits: DiskFullLimits) -> Judgement:
    """Judges one run. The header's settings give `write_deadline_ms`."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in DISK_FULL_FIGURES.items() if key not in FIGURES})
    window = fault_window(history)
    if window is None:
        return found.judgement()
    deadline_ms = setting(history, "write_deadline_ms")
    # Those that were under way when there was room again may have succeeded for that reason.
    full = (window[0] + limits.grace_s, window[1] - deadline_ms / 1000.0)
    writes = sent_within(history.of("write"), full)
    others = [write for write in writes if write["status"] not in (OK, REFUSED)]
    refused = [write for write in writes if write["status"] == REFUSED]
    figures["fault_writes"] = len(writes)
    figures["fault_writes_acknowledged"] = len(writes) - len(others) - len(refused)
    figures["fault_writes_refused"] = len(refused)
    figures["fault_writes_other"] = len(others)
    waits_ms = [(write["done_s"] - write["intended_s"]) * 1000.0 for write in writes]
    figures["slowest_outcome_ms"] = round(max(waits_ms), 1) if waits_ms else None
    if not writes:
        found.doubts.append("no write was sent while the disk was full")
    elif figures["fault_writes_acknowledged"] == len(writes):
        found.doubts.append("the log still had room of its own: every write succeeded on the full disk")
    if len(refused) < limits.refused_share * (len(refused) + len(others)):
        found.deviations.append(
            f"of {len(writes)} writes on the full disk {len(refused)} were refused as RESOURCE_EXHAUSTED and "
            f"{len(others)} ended otherwise: {_ends(others)}"
        )
    silent = sum(wait > deadline_ms + limits.overrun_ms for wait in waits_ms)
    if silent:
        unless_stalled(
            found, history, f"{silent} writes had no outcome {limits.overrun_ms:g} ms after their deadline"
        )
    _writes_back(found, history, window[1], limits.recovery_ms)
    return found.judgement()


def _ends(writes: list[Record]) -> str:
    """How some writes ended, for a sentence."""
    first = writes[0]
    return f"{first['status']}: {first.get('detail', '')}"


@dataclass(frozen=True)
class FsyncErrorLimits:
    """exit_code: what the primary must end with. rto_ms: from the fault to the first acknowledged write of
    its successor; besides the takeover it holds the time until the next sync, at most a third of a lease.
    """

    exit_code: int = 74
    rto_ms: float = 1000.0


FSYNC_ERROR_FIGURES: dict[str, Any] = {
    **FIGURES,
    "rto_ms": None,
    "syncs_failed": 0,
    "ended_by_itself": True,
    "acknowledged_undurable": 0,
}


def judge_fsync_error(history: History, limits: FsyncErrorLimits) -> Judgement:
    """Judges one run. `exit` tells what the victim ended with, `tampered` how many of its syncs failed."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in FSYNC_ERROR_FIGURES.items() if key not in FIGURES})
    fault = history.first("fault")
    if fault is None:
        return found.judgement()
    figures["rto_ms"] = recovery_ms(history)
    figures["syncs_failed"] = sum(record["calls"] for record in history.of("tampered"))
    ended = history.first("exit")
    code = None if ended is None else ended["code"]
    figures["ended_by_itself"] = code == limits.exit_code
    acknowledged = [write for write in history.of("write") if write["status"] == OK]
    reign = max((write["epoch"] for write in acknowledged if write["done_s"] <= fault["at_s"]), default=0)
    # From this moment on no sync of the victim succeeds, so it has nothing that it could acknowledge.
    since_s = fault["at_s"] + fault["attached_after_s"]
    undurable = [w for w in acknowledged if w["epoch"] <= reign and w["sent_s"] > since_s]
    figures["acknowledged_undurable"] = len(undurable)
    if undurable:
        found.deviations.append(
            f"{len(undurable)} writes were acknowledged in epoch {reign} though no sync of its primary "
            f"succeeded any more, first {undurable[0]['event_id']}"
        )
    if not figures["syncs_failed"]:
        found.doubts.append("no sync failed")
    elif code != limits.exit_code:
        how = "did not end" if code is None else f"ended with code {code}"
        found.deviations.append(f"the primary {how} after its sync had failed, instead of {limits.exit_code}")
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
