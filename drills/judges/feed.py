"""The judge of drills in which what is sold changes: a garbled feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement
from drills.journal import History
from drills.judges.promises import FIGURES, Findings, check_promises


@dataclass(frozen=True)
class FeedPromises:
    """fall: of mean nDCG@10 over the judged queries that is still held."""

    fall: float = 0.01


FEED_FIGURES: dict[str, Any] = {
    **FIGURES,
    "malformed_rows": 0,
    "malformed_missed": 0,
    "suspicious_rows": 0,
    "suspicious_missed": 0,
    "good_rows": 0,
    "good_lost": 0,
    "ndcg_before": None,
    "ndcg_after": None,
    "ndcg_fall": None,
}


def judge_noisy_data(history: History, limits: FeedPromises) -> Judgement:
    """Judges one run. `feed` compares the rows written with those that the loader told of, `good` names good
    rows that are not served, `quality` is that before and after."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in FEED_FIGURES.items() if key not in FIGURES})
    feed, good = history.first("feed"), history.first("good")
    if feed is None or good is None:
        found.doubts.append("the feed was not loaded, so nothing is known of its rows")
        return found.judgement()
    for name in ("malformed_rows", "malformed_missed", "suspicious_rows", "suspicious_missed"):
        figures[name] = feed[name]
    figures["good_rows"], figures["good_lost"] = good["rows"], len(good["lost"])
    if feed["exit"] != 0:
        found.deviations.append(f"the load ended with {feed['exit']}: {feed['complaint']}")
    if not feed["malformed_rows"] or not feed["suspicious_rows"]:
        found.doubts.append("the feed had no malformed, or no suspicious row")
    missed = feed["malformed_missed"] + feed["suspicious_missed"]
    if missed:
        named = ", ".join(feed["missed"][:4])
        found.deviations.append(f"{missed} garbled rows were taken without a word, such as {named}")
    if good["lost"]:
        found.deviations.append(
            f"{len(good['lost'])} of {good['rows']} good rows are not served as written: {good['lost'][0]}"
        )
    compare_quality(found, history, limits.fall)
    return found.judgement()


def compare_quality(found: Findings, history: History, fall_max: float) -> None:
    """Puts nDCG before and after into the figures; more of a fall than `fall_max` is a deviation."""
    figures = found.figures
    for record in history.of("quality"):
        figures[f"ndcg_{record['when']}"] = record["ndcg_at_10"]
        if record["failed"]:
            found.deviations.append(
                f"{record['failed']} of {record['queries']} judged queries were not answered {record['when']}"
            )
    before, after = figures.get("ndcg_before"), figures.get("ndcg_after")
    if before is None or after is None:
        found.doubts.append("the quality before or after is not known")
        return
    figures["ndcg_fall"] = fall = round(before - after, 4)
    if fall > fall_max:
        found.deviations.append(f"nDCG@10 fell from {before} to {after}, by more than {fall_max:g}")
