from __future__ import annotations

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.drift import DRIFT_FIGURES, DriftLimits, judge_model_drift
from tests.drills.judges.records import ENDED, acknowledged, fault, header, log, read, rollback


def look(phase: str, share: float, index: float | None, ndcg: float | None) -> Record:
    told = {"queries": 60, "failed": 0, "ndcg_at_10": ndcg, "expected": 1.0}
    return {"kind": "drift", "phase": phase, "share": share, "index": index, **told}


def moved(
    *,
    still: float | None = 0.05,
    indices: tuple[float | None, ...] = (0.1, 0.3, 1.0),
    ndcgs: tuple[float | None, ...] = (0.7, 0.6, 0.1),
    mended: float = 0.7,
    status: str = "OK",
) -> History:
    shares = (0.2, 0.4, 1.0)
    return History(
        (
            header(),
            fault(10.0, "moving demand"),
            rollback(20.0),
            read(12.0, status),
            acknowledged(1, 5.0),
            *log(1),
            ENDED,
            look("still", 0.0, still, 0.8),
            *(look("moving", *one) for one in zip(shares, indices, ndcgs, strict=True)),
            look("mended", 1.0, 1.0, mended),
        )
    )


def test_a_drift_that_is_noticed_early_and_mended_holds() -> None:
    judgement = judge_model_drift(moved(), DriftLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(DRIFT_FIGURES)
    assert (judgement.figures["noticed_share"], judgement.figures["noticed_fall"]) == (0.4, 0.2)


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        (moved(still=0.4), "nothing had moved, and the index stood at 0.40"),
        # The control: the reference is taken away at each look.
        (moved(indices=(None, None, None)), "no index rose above 0.25"),
        (moved(indices=(0.1, 0.2, 0.9)), "had fallen by 0.7 when the drift was noticed"),
        (moved(mended=0.3), "after the remedy nDCG@10 is 0.3"),
        (moved(status="Unavailable"), "ended with Unavailable"),
    ],
)
def test_what_a_drift_must_not_do(history: History, sentence: str) -> None:
    judgement = judge_model_drift(history, DriftLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


@pytest.mark.parametrize(
    "history", [moved(ndcgs=(0.8, 0.8, 0.7)), moved(ndcgs=(None, 0.8, 0.7)), History((header(),))]
)
def test_where_quality_did_not_fall_or_is_not_known_nothing_can_be_told(history: History) -> None:
    assert judge_model_drift(history, DriftLimits()).verdict is Verdict.INCONCLUSIVE
