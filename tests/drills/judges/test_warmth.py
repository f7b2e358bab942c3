from __future__ import annotations

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.warmth import WARMTH_FIGURES, WarmthLimits, judge_cold_start
from tests.drills.judges.records import ENDED, acknowledged, direct, fault, header, log, read

COLD = fault(
    10.0, "cold_start", replica="b", serving_after_s=3.0, cached_mib_before=20.0, cached_mib_after=4.0
)


def history(*more: Record, first: int = 60) -> History:
    """b was away from 10 s to 13 s and is asked 20 times a second from then on."""
    return History(
        (
            header(deadline_ms=50.0),
            COLD,
            direct("b", 5.0),
            direct("b", 11.0, "UNREACHED"),
            direct("b", 12.5, "UNAVAILABLE"),
            *(direct("b", 13.0 + n / 20) for n in range(first)),
            # What others take, and what b takes once it has served for a while, is not asked.
            direct("a", 13.5, took_s=0.4),
            direct("b", 17.0, took_s=0.4),
            read(11.0),
            acknowledged(1, 5.0),
            *log(1),
            ENDED,
            *more,
        )
    )


def test_first_answers_in_time_hold() -> None:
    judgement = judge_cold_start(history(), WarmthLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(WARMTH_FIGURES)
    assert (judgement.figures["first_asked"], judgement.figures["first_in_time"]) == (60, 60)
    assert judgement.figures["warm_p95_ms"] == 10.0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (direct("b", 13.1, took_s=0.08), "60 of the first 61 answers came in time, the slowest after 80 ms"),
        # The control: it says that it serves while it still loads.
        (direct("b", 13.1, "UNAVAILABLE", detail="still starting"), "not answered by a replica that says it"),
        (read(13.0, "Unavailable"), "ended with Unavailable"),
    ],
)
def test_a_replica_that_serves_before_it_is_warm_deviates(more: Record, sentence: str) -> None:
    judgement = judge_cold_start(history(more), WarmthLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_few_answers_say_nothing() -> None:
    assert judge_cold_start(history(first=5), WarmthLimits()).verdict is Verdict.INCONCLUSIVE
