"""The judge of a demand that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement
from drills.journal import History
from drills.judges.promises import FIGURES, check_promises


@dataclass(frozen=True)
class DriftLimits:
    """index: above it a distribution has moved. fall: of mean nDCG@10 by which it must have been noticed.
    back: share of nDCG@10 before that the remedy must bring back."""

    index: float = 0.25
    fall: float = 0.3
    back: float = 0.6


DRIFT_FIGURES: dict[str, Any] = {
    **FIGURES,
    "still_index": None,
    "moved_index": None,
    "noticed_share": None,
    "noticed_ndcg": None,
    "noticed_fall": None,
    "ndcg_before": None,
    "ndcg_moved": None,
    "ndcg_mended": None,
    "expected_before": None,
    "expected_moved": None,
}


def judge_model_drift(history: History, limits: DriftLimits) -> Judgement:
    """Judges one run. `drift` tells, phase by phase (still, moving, mended), the share of moved demand, the
    highest index of any replica and the quality of a sample of the demand as it was then."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in DRIFT_FIGURES.items() if key not in FIGURES})
    looks = {phase: [one for one in history.of("drift") if one["phase"] == phase] for phase in _PHASES}
    if not all(looks.values()) or any(one["ndcg_at_10"] is None for one in history.of("drift")):
        found.doubts.append("the demand was not followed to its end, or its quality is not known")
        return found.judgement()
    still, moving, mended = looks["still"][-1], looks["moving"], looks["mended"][-1]
    before = figures["ndcg_before"] = still["ndcg_at_10"]
    figures["expected_before"], figures["expected_moved"] = still["expected"], moving[-1]["expected"]
    figures["ndcg_moved"], figures["ndcg_mended"] = moving[-1]["ndcg_at_10"], mended["ndcg_at_10"]
    figures["still_index"] = still["index"]
    indices = [one["index"] for one in moving if one["index"] is not None]
    figures["moved_index"] = max(indices, default=None)
    if still["index"] is not None and still["index"] > limits.index:
        found.deviations.append(
            f"nothing had moved, and the index stood at {still['index']:.2f}, above {limits.index:g}"
        )
    if figures["ndcg_moved"] >= before - limits.fall:
        found.doubts.append(
            f"nDCG@10 fell from {before} to {figures['ndcg_moved']} alone: nothing that had to be noticed"
        )
    noticed = next((one for one in moving if one["index"] is not None and one["index"] > limits.index), None)
    if noticed is None:
        found.deviations.append(f"all of the demand moved, and no index rose above {limits.index:g}")
    else:
        figures["noticed_share"], figures["noticed_ndcg"] = noticed["share"], noticed["ndcg_at_10"]
        figures["noticed_fall"] = fall = round(before - noticed["ndcg_at_10"], 4)
        if fall > limits.fall:
            found.deviations.append(
                f"nDCG@10 had fallen by {fall} when the drift was noticed, more than {limits.fall:g}"
            )
    if figures["ndcg_mended"] < limits.back * before:
        found.deviations.append(
            f"after the remedy nDCG@10 is {figures['ndcg_mended']}, less than {limits.back:g} of {before}"
        )
    return found.judgement()


_PHASES = ("still", "moving", "mended")
