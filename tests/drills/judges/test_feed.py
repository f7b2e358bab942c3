from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.feed import FEED_FIGURES, FeedPromises, judge_noisy_data
from tests.drills.judges.records import ENDED, acknowledged, fault, header, log, read, rollback

FEED: dict[str, Any] = {
    "exit": 0,
    "complaint": "",
    "malformed_rows": 7,
    "malformed_missed": 0,
    "suspicious_rows": 8,
    "suspicious_missed": 0,
    "missed": [],
    "good_left_out": 0,
}


def quality(when: str, ndcg: float | None, failed: int = 0) -> Record:
    return {"kind": "quality", "when": when, "queries": 60, "failed": failed, "ndcg_at_10": ndcg}


def loaded(
    *more: Record, after: float | None = 0.79, failed: int = 0, lost: tuple[str, ...] = (), **feed: Any
) -> History:
    return History(
        (
            header(),
            fault(10.0, "garbled feed"),
            rollback(20.0),
            read(12.0),
            acknowledged(1, 5.0),
            *log(1),
            ENDED,
            quality("before", 0.795),
            quality("after", after, failed),
            {"kind": "feed", **FEED, **feed},
            {"kind": "good", "rows": 85, "lost": list(lost)},
            *more,
        )
    )


def test_a_feed_whose_faults_are_all_named_holds() -> None:
    judgement = judge_noisy_data(loaded(), FeedPromises())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(FEED_FIGURES)
    assert judgement.figures["ndcg_fall"] == 0.005


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        (loaded(suspicious_missed=8, missed=["3 (stuffed)"]), "8 garbled rows were taken without a word"),
        (loaded(malformed_missed=1, missed=["3 (no_id)"]), "such as 3 (no_id)"),
        (loaded(lost=("P1: stock 3 instead of 4",)), "1 of 85 good rows"),
        (loaded(after=0.7), "nDCG@10 fell from 0.795 to 0.7"),
        (loaded(failed=2), "2 of 60 judged queries were not answered after"),
        (loaded(exit=1, complaint="no replica"), "the load ended with 1: no replica"),
        (loaded(read(13.0, "Unavailable")), "ended with Unavailable"),
    ],
)
def test_what_a_garbled_feed_must_not_do(history: History, sentence: str) -> None:
    judgement = judge_noisy_data(history, FeedPromises())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


@pytest.mark.parametrize(
    "history",
    [
        loaded(after=None),
        loaded(malformed_rows=0),
        History(tuple(record for record in loaded().records if record["kind"] != "feed")),
    ],
)
def test_what_is_not_known_is_a_doubt(history: History) -> None:
    assert judge_noisy_data(history, FeedPromises()).verdict is Verdict.INCONCLUSIVE
