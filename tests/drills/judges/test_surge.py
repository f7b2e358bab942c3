from __future__ import annotations

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges import surge
from drills.judges.surge import SURGE_FIGURES, SurgeLimits, judge_surge
from tests.drills.judges.records import fault, header, read

JOINED = "scaled-1 at 127.0.0.1:1: joined, warm after 2.0 s"
LEFT = "scaled-1 at 127.0.0.1:1: ended after 0.4 s of draining"


def day(
    *reads: Record,
    said: tuple[tuple[float, str], ...] = ((14.0, JOINED), (50.0, LEFT)),
    prices: tuple[float | None, ...] = (0.0, 0.5, 0.6, 0.7, 0.1),
    ended: int | None = 0,
) -> History:
    """A minute from 10 s on; the price is looked at every 4 s."""
    return History(
        (
            header(deadline_ms=100.0, day_s=60.0),
            fault(10.0, "scaling"),
            {"kind": "rollback", "at_s": 70.0, "exit": ended},
            *(read(10.0 + number) for number in range(50)),
            *({"kind": "scaling", "since_s": since_s, "said": text} for since_s, text in said),
            *({"kind": "price", "since_s": 4.0 * place, "units": one} for place, one in enumerate(prices)),
            *reads,
        )
    )


def test_a_day_with_replicas_that_come_and_go_holds() -> None:
    judgement = judge_surge(day(), SurgeLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(SURGE_FIGURES)
    figures = judgement.figures
    assert (figures["joined"], figures["left"], figures["joined_after_s"]) == (1, 1, 10.0)
    assert figures["quality"] == figures["quality_noon"] == 0.75


def test_refusals_are_no_failures_and_do_not_count_as_late() -> None:
    judgement = judge_surge(day(*(read(30.0, "Overloaded") for _ in range(50))), SurgeLimits())
    assert judgement.verdict is Verdict.HELD
    assert (judgement.figures["refused"], judgement.figures["in_time_share"]) == (50, 1.0)


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        # The control: none may be added.
        (day(said=()), "above 0.3 from 4.0 s on, and no replica joined"),
        (day(said=((40.0, JOINED), (50.0, LEFT))), "joined 36.0 s after it was needed"),
        (day(said=((14.0, JOINED),)), "1 replicas joined and 0 left"),
        (day(said=((9.0, "problem: scaled-1 ended with 3"), (14.0, JOINED), (50.0, LEFT))), "ended with 3"),
        (day(ended=1), "the scaling ended with 1"),
        (day(ended=None), "the scaling ended with None"),
        (day(read(30.0, took_s=0.2)), "(98.0%), fewer than 99%"),
        (day(read(30.0, "DeadlineExceeded", took_s=0.1)), "(98.0%), fewer than 99%"),
        (day(read(30.0, "Unavailable")), "1 searches failed while replicas came and went"),
    ],
)
def test_what_a_day_must_not_do(history: History, sentence: str) -> None:
    judgement = judge_surge(history, SurgeLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


@pytest.mark.parametrize("prices", [(0.0, 0.1, 0.2), (0.5, 0.0, 0.9, 0.8, 0.0), (None, None), ()])
def test_where_time_was_never_dear_nothing_can_be_told(prices: tuple[float | None, ...]) -> None:
    assert judge_surge(day(said=(), prices=prices), SurgeLimits()).verdict is Verdict.INCONCLUSIVE


def test_a_price_that_stood_for_two_seconds_asks_for_no_replica() -> None:
    looks = [{"since_s": 0.5 * place, "units": 0.9 if 3 <= place < 7 else 0.0} for place in range(20)]
    assert surge._needed_since_s(looks, 0.3) is None
    looks = [{"since_s": 0.5 * place, "units": 0.9 if 3 <= place < 10 else 0.0} for place in range(20)]
    assert surge._needed_since_s(looks, 0.3) == 1.5
