"""The judges of the drills. They read the recorded history and nothing else: no process, clock or service.

What can be said of writes, epochs and sessions is in `drills.judges.history`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile, worst
from drills.journal import History, Record
from drills.judges.history import OK, check_epochs, check_sessions, check_writes
from drills.rig.load import RECOMMENDATION

TIMED_OUT = "DeadlineExceeded"
STALL_MS = 100.0
"""A machine that keeps a ready process waiting for longer than this cannot be asked for answers within 250
ms."""


def recovery_ms(history: History) -> float | None:
    """Milliseconds from the fault to the first acknowledged write of a newer epoch; None: there was none.

    The newer epoch matters: an acknowledgement of the dead primary may still be on its way when it dies.
    """
    fault = history.first("fault")
    if fault is None:
        return None
    acknowledged = [write for write in history.of("write") if write["status"] == OK]
    before = max((write["epoch"] for write in acknowledged if write["done_s"] <= fault["at_s"]), default=0)
    after = [
        write["done_s"]
        for write in acknowledged
        if write["epoch"] > before and write["done_s"] > fault["at_s"]
    ]
    return round((min(after) - fault["at_s"]) * 1000.0, 1) if after else None


def steady_reads(history: History) -> list[Record]:
    """The reads since the steady state was reached; before that there is nothing for a fault to disturb."""
    steady = history.first("steady")
    since_s = 0.0 if steady is None else steady["at_s"]
    return [read for read in history.of("read") if read["done_s"] >= since_s]


def read_errors(history: History) -> list[Record]:
    """The reads that were not answered, since the steady state was reached."""
    return [read for read in steady_reads(history) if read["status"] != OK]


def failed_reads(history: History) -> tuple[list[str], list[str]]:
    """Sentences for the reads that were not answered, as deviations; as doubts where this machine kept the
    load generator itself waiting.
    """
    errors = read_errors(history)
    stall_ms = generator_stall_ms(history)
    if errors and stall_ms > STALL_MS and all(read["status"] == TIMED_OUT for read in errors):
        return [], [
            f"{len(errors)} reads were not answered in time, but this machine kept the load generator itself "
            f"waiting for up to {stall_ms:.0f} ms: too busy to judge"
        ]
    return [f"a read at {read['intended_s']:.3f} s ended with {read['status']}" for read in errors[:3]], []


@dataclass(frozen=True)
class FailoverLimits:
    """What the failover judge accepts.

    rto_ms: of the median recovery over all runs. base_write_ms: slower writes than this (95th percentile)
    before the fault mean a machine too busy to judge a recovery time on.
    """

    rto_ms: float = 300.0
    base_write_ms: float = 150.0


def judge_failover(history: History) -> Judgement:
    """Judges one run. The recovery time itself is judged over all runs, by `judge_failover_runs`."""
    figures: dict[str, Any] = {
        "rto_ms": recovery_ms(history),
        "writes_acknowledged": 0,
        "writes_lost": 0,
        "writes_doubled": 0,
        "reads": len(steady_reads(history)),
        "read_errors": len(read_errors(history)),
        "epochs_monotone": True,
        "generator_stall_ms": generator_stall_ms(history),
        "base_write_p95_ms": base_write_p95_ms(history),
        "write_errors": sum(write["status"] != OK for write in history.of("write")),
    }
    if history.first("fault") is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no fault was injected",))
    deviations: list[str] = []
    epochs = check_epochs(history)
    figures["epochs_monotone"] = not epochs
    deviations += epochs
    deviations += check_sessions(history)
    failed, doubts = failed_reads(history)
    deviations += failed
    writes = check_writes(history)
    if writes is not None:
        figures["writes_acknowledged"] = writes.acknowledged
        figures["writes_lost"] = len(writes.lost)
        figures["writes_doubled"] = len(writes.doubled)
        deviations += writes.problems()
    if figures["rto_ms"] is None:
        deviations.append("no write was acknowledged by a new primary after the fault")
    if deviations:
        return Judgement(Verdict.DEVIATED, figures, tuple(deviations))
    if writes is None:
        doubts.append("the log could not be read to its end, so nothing is known of lost writes")
    elif writes.acknowledged == 0:
        doubts.append("no write was acknowledged")
    if not figures["reads"]:
        doubts.append("no read was sent")
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, figures, tuple(doubts))
    return Judgement(Verdict.HELD, figures)


def generator_stall_ms(history: History) -> float:
    """The longest that a request left after its intended moment, ms: how long this machine kept a ready
    process from running."""
    delays = [read["sent_s"] - read["intended_s"] for read in history.of("read")]
    return round(max(delays, default=0.0) * 1000.0, 1)


def base_write_p95_ms(history: History) -> float | None:
    """95th percentile of the acknowledged writes' latency before the fault, ms; None: there were none."""
    fault = history.first("fault")
    if fault is None:
        return None
    latencies = [
        (write["done_s"] - write["sent_s"]) * 1000.0
        for write in history.of("write")
        if write["status"] == OK and write["done_s"] < fault["at_s"]
    ]
    return round(quantile(latencies, 0.95), 1) if latencies else None


def judge_failover_runs(runs: Sequence[Judgement], limits: FailoverLimits) -> Judgement:
    """The verdict over all runs, with the figures that `--json` prints (`drill`, `verdict` and `runs`
    aside)."""
    recoveries = [run.figures["rto_ms"] for run in runs if run.figures.get("rto_ms") is not None]
    figures: dict[str, Any] = {
        "rto_ms": {
            "min": min(recoveries, default=None),
            "p50": quantile(recoveries, 0.5) if recoveries else None,
            "max": max(recoveries, default=None),
        },
        **{
            name: sum(run.figures.get(name, 0) for run in runs)
            for name in ("writes_acknowledged", "writes_lost", "writes_doubled", "reads", "read_errors")
        },
        "epochs_monotone": all(run.figures.get("epochs_monotone", True) for run in runs),
    }
    reasons = [
        f"run {number}: {reason}" for number, run in enumerate(runs, start=1) for reason in run.reasons
    ]
    verdicts = [run.verdict for run in runs]
    if recoveries and (p50 := figures["rto_ms"]["p50"]) > limits.rto_ms:
        bases = [base for run in runs if (base := run.figures.get("base_write_p95_ms")) is not None]
        base = quantile(bases, 0.5) if bases else 0.0
        sentence = f"writes were back after {p50:.0f} ms (median), more than {limits.rto_ms:.0f} ms"
        if base > limits.base_write_ms:
            verdicts.append(Verdict.INCONCLUSIVE)
            reasons.append(
                f"{sentence}, but writes took {base:.0f} ms (95th percentile) before the fault already: "
                "this machine is too busy to judge a recovery time"
            )
        else:
            verdicts.append(Verdict.DEVIATED)
            reasons.append(sentence)
    return Judgement(worst(verdicts), figures, tuple(reasons))


@dataclass(frozen=True)
class StormLimits:
    """What the storm judge accepts.

    in_time_share: of all searches offered, and of all recommendations. late_share: where that was missed, a
    generator that sent more than this share late was itself the bottleneck.
    """

    in_time_share: float = 0.95
    late_share: float = 0.05


def judge_storm(history: History, limits: StormLimits) -> Judgement:
    """Judges a storm from its searches and, beside them, its recommendations. The header's settings give
    `deadline_ms`, `load_factor` and `best_plan`.

    in_time: answered OK at most `deadline_ms` after the intended moment.
    full_quality_share: of all offered, those answered in time by the best plan in full.
    quality_in_time: mean over all offered of the receipt's expected nDCG share, 0 for what was not in time.
    tiers: share of the answers in time that each tier gave.
    recommendations: the same of those; quality_in_time is None where no receipt tells what its tier is worth.
    """
    header = history.first("run")
    settings: dict[str, Any] = header["settings"] if header is not None else {}
    deadline_s = settings["deadline_ms"] / 1000.0
    late_after_s = settings["late_after_ms"] / 1000.0
    kinds = {"requests": history.of("read")}
    figures: dict[str, Any] = {
        "load_factor": settings["load_factor"],
        **_storm_figures(kinds["requests"], deadline_s),
    }
    beside = history.of(RECOMMENDATION)
    if beside:
        kinds["recommendations"] = beside
        figures["recommendations"] = _storm_figures(beside, deadline_s)
        if not any(one.get("expected_ndcg") for one in beside):
            figures["recommendations"]["quality_in_time"] = None
    if not kinds["requests"]:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("nothing was offered",))
    # A generator that sent late only made it harder: a request counts from its intended moment.
    missed = {
        name: reads for name, reads in kinds.items() if _share(reads, deadline_s) < limits.in_time_share
    }
    if not missed:
        return Judgement(Verdict.HELD, figures)
    for reads in missed.values():
        late = sum(read["sent_s"] - read["intended_s"] > late_after_s for read in reads)
        if late / len(reads) > limits.late_share:
            return Judgement(
                Verdict.INCONCLUSIVE,
                figures,
                (
                    f"the load generator was the bottleneck: it sent {late} of {len(reads)} requests more "
                    f"than {late_after_s * 1000:.0f} ms late; {_share(reads, deadline_s):.1%} were answered "
                    "in time. Give it a core of its own, or a smaller --factor",
                ),
            )
    return Judgement(
        Verdict.DEVIATED,
        figures,
        tuple(_missed(name, reads, deadline_s, limits) for name, reads in missed.items()),
    )


def _in_time(reads: Sequence[Record], deadline_s: float) -> list[Record]:
    return [r for r in reads if r["status"] == OK and r["done_s"] - r["intended_s"] <= deadline_s]


def _share(reads: Sequence[Record], deadline_s: float) -> float:
    return len(_in_time(reads, deadline_s)) / len(reads)


def _storm_figures(reads: Sequence[Record], deadline_s: float) -> dict[str, Any]:
    in_time, offered = _in_time(reads, deadline_s), len(reads)
    tiers = Counter(read["tier"] for read in in_time)
    full = sum(read["reason"] == "best" for read in in_time)
    return {
        "offered": offered,
        "in_time": len(in_time),
        "in_time_share": round(len(in_time) / offered, 4) if offered else None,
        "full_quality_share": round(full / offered, 4) if offered else None,
        "quality_in_time": round(sum(r["expected_ndcg"] for r in in_time) / offered, 4) if offered else None,
        "tiers": {tier: round(count / len(in_time), 4) for tier, count in sorted(tiers.items())},
    }


def _missed(name: str, reads: Sequence[Record], deadline_s: float, limits: StormLimits) -> str:
    statuses = Counter(_outcome(read, deadline_s) for read in reads)
    statuses.pop("in time", None)
    missed = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    return (
        f"{_share(reads, deadline_s):.1%} of {len(reads)} {name} were answered in time, fewer than "
        f"{limits.in_time_share:.0%} ({missed})"
    )


def _outcome(read: Record, deadline_s: float) -> str:
    if read["status"] != OK:
        return str(read["status"])
    return "in time" if read["done_s"] - read["intended_s"] <= deadline_s else "OK, but late"
