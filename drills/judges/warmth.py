"""The judge of a replica that starts cold. It reads the recorded history and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, quantile
from drills.journal import History
from drills.judges.history import OK
from drills.judges.promises import FIGURES, check_promises, sent_within, setting, unless_stalled


@dataclass(frozen=True)
class WarmthLimits:
    """What the judge accepts.

    first_s: for how long after it began to serve a replica's answers are the first ones. in_time_share: of
    these, those in time. least: fewer say nothing.
    """

    first_s: float = 3.0
    in_time_share: float = 1.0
    least: int = 20


WARMTH_FIGURES: dict[str, Any] = {
    **FIGURES,
    "serving_after_s": None,
    "cached_mib_before": None,
    "cached_mib_after": None,
    "first_asked": 0,
    "first_in_time": 0,
    "first_slowest_ms": None,
    "first_p95_ms": None,
    "first_quality": None,
    "warm_p95_ms": None,
    "warm_quality": None,
}


def judge_cold_start(history: History, limits: WarmthLimits) -> Judgement:
    """Judges one run. The header's settings give `deadline_ms`; `direct` reads were asked of the restarted
    replica alone.
    """
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in WARMTH_FIGURES.items() if key not in FIGURES})
    fault = history.first("fault")
    if fault is None:
        return found.judgement()
    for name in ("serving_after_s", "cached_mib_before", "cached_mib_after"):
        figures[name] = fault[name]
    deadline_s = setting(history, "deadline_ms") / 1000.0
    serving_s = fault["at_s"] + fault["serving_after_s"]
    direct = [read for read in history.of("direct") if read["asked"] == fault["replica"]]
    warm = [read for read in direct if read["done_s"] < fault["at_s"] and read["status"] == OK]
    first = sent_within(direct, (serving_s, serving_s + limits.first_s))
    good = [read for read in first if read["status"] == OK]
    in_time = [read for read in good if read["done_s"] - read["intended_s"] <= deadline_s]
    figures["first_asked"], figures["first_in_time"] = len(first), len(in_time)
    for prefix, reads in (("first", good), ("warm", warm)):
        if reads:
            took_ms = [(read["done_s"] - read["intended_s"]) * 1000.0 for read in reads]
            figures[f"{prefix}_p95_ms"] = round(quantile(took_ms, 0.95), 1)
            figures[f"{prefix}_quality"] = round(sum(read["expected_ndcg"] for read in reads) / len(reads), 4)
            if prefix == "first":
                figures["first_slowest_ms"] = round(max(took_ms), 1)
    failed = [read for read in first if read["status"] != OK]
    if len(first) < limits.least:
        found.doubts.append(f"only {len(first)} searches were sent to the replica after it began to serve")
    if failed:
        found.deviations.append(
            f"{len(failed)} of the first {len(first)} searches were not answered by a replica that says it "
            f"serves: {failed[0]['status']}: {failed[0].get('detail', '')}"
        )
    elif len(in_time) < limits.in_time_share * len(first):
        unless_stalled(
            found,
            history,
            f"{len(in_time)} of the first {len(first)} answers came in time, the slowest after "
            f"{figures['first_slowest_ms']:.0f} ms",
        )
    return found.judgement()
