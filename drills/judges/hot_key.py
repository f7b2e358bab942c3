"""The judge of a hot query. It reads the recorded history and nothing else.

Beside the kinds that every judge reads: `hot`, one search for the hot query, with the fields of a `read`; the
reads are those for the other queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.history import OK


@dataclass(frozen=True)
class HotLimits:
    """What the judge accepts.

    lost_share: of the other queries, how many more may be late than without the hot one. late_share: where
    that was missed, a generator that sent more than this share late was itself the bottleneck.
    """

    lost_share: float = 0.02
    late_share: float = 0.05


def judge_hot_key(history: History, limits: HotLimits) -> Judgement:
    """Judges one hot query. The header's settings give `deadline_ms`, `late_after_ms` and `capacity_per_s`.

    others_quality, base_quality: mean over the other queries of what the receipts say an answer is worth, 0
    for what was not in time; with the hot one, and without.
    """
    header, fault, end = history.first("run"), history.first("fault"), history.first("rollback")
    settings: dict[str, Any] = {} if header is None else header.get("settings", {})
    deadline_s = settings.get("deadline_ms", 50.0) / 1000.0
    reads, hot = history.of("read"), history.of("hot")
    figures: dict[str, Any] = {
        "capacity_per_s": settings.get("capacity_per_s"),
        "others": len(reads),
        "others_in_time_share": None,
        "base_in_time_share": None,
        "hot": len(hot),
        "hot_in_time_share": share_in_time(hot, deadline_s),
        "others_quality": None,
        "base_quality": None,
    }
    steady = history.first("steady")
    if fault is None or end is None or steady is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no query was hot",))
    # Before it was steady, the replica was still warming up.
    since_s = max(0.0, steady["at_s"] - 4.0)
    base = [read for read in reads if since_s <= read["intended_s"] < fault["at_s"] - deadline_s]
    # The first half second is the planner's to notice.
    during = [r for r in reads if fault["at_s"] + 0.5 <= r["intended_s"] < end["at_s"]]
    without, beside = share_in_time(base, deadline_s), share_in_time(during, deadline_s)
    figures["base_in_time_share"], figures["others_in_time_share"] = without, beside
    figures["base_quality"], figures["others_quality"] = (
        quality_in_time(base, deadline_s),
        quality_in_time(during, deadline_s),
    )
    if without is None or beside is None or not hot:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("too few searches were sent to compare them",))
    if beside >= without - limits.lost_share:
        return Judgement(Verdict.HELD, figures)
    sentence = f"{beside:.1%} of the other queries were answered in time, {without:.1%} without the hot one"
    late_after_s = settings.get("late_after_ms", 10.0) / 1000.0
    late = sum(read["sent_s"] - read["intended_s"] > late_after_s for read in during) / len(during)
    if late > limits.late_share:
        why = f"{sentence}, but the load generator itself sent {late:.1%} of them late: give it a core"
        return Judgement(Verdict.INCONCLUSIVE, figures, (why,))
    return Judgement(Verdict.DEVIATED, figures, (sentence,))


def share_in_time(reads: Sequence[Record], deadline_s: float) -> float | None:
    """Of the reads, those answered within the deadline of their intended moment; None of none."""
    if not reads:
        return None
    return round(sum(_in_time(read, deadline_s) for read in reads) / len(reads), 4)


def quality_in_time(reads: Sequence[Record], deadline_s: float) -> float | None:
    """Mean worth of the answers by their receipts, 0 for those not in time; None of none."""
    if not reads:
        return None
    worth = sum(float(read["expected_ndcg"]) for read in reads if _in_time(read, deadline_s))
    return round(worth / len(reads), 4)


def _in_time(read: Record, deadline_s: float) -> bool:
    return bool(read["status"] == OK and read["done_s"] - read["intended_s"] <= deadline_s)
