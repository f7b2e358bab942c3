"""The judge of wall clocks that jump, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.clock import ClockLimits, judge_clock_jump


def skewed(at_s: float = 4.0, took_ms: float = 5.0, **more: Any) -> Record:
    return {
        "kind": "skewed_read",
        "asked": "a",
        "intended_s": at_s,
        "sent_s": at_s,
        "done_s": at_s + took_ms / 1000.0,
        "status": "OK",
        "skew_s": 3600.0,
        **more,
    }


def judge(*more: Record, epochs: tuple[int, int] = (1, 1)) -> Judgement:
    writes = [
        {
            "kind": "write",
            "event_id": f"e{number}",
            "sequence": number,
            "epoch": epoch,
            "sent_s": float(number),
            "intended_s": float(number),
            "done_s": number + 0.01,
            "status": "OK",
        }
        for number, epoch in enumerate(epochs, 1)
    ]
    records = (
        {"kind": "steady", "at_s": 0.0},
        {"kind": "fault", "at_s": 3.0, "replica": "a", "offset_s": 3600},
        {"kind": "rollback", "at_s": 6.0},
        {**skewed(), "kind": "read", "replica": "a", "applied_sequence": 2},
        *writes,
        *({"kind": "log", **{k: w[k] for k in ("sequence", "epoch", "event_id")}} for w in writes),
        {"kind": "log_end", "head": 2},
        {"kind": "replica", "replica": "a", "serving": True, "applied_sequence": 2},
        *more,
    )
    return judge_clock_jump(History(records), ClockLimits())


def test_a_jump_that_nobody_feels_holds() -> None:
    judgement = judge(skewed(), skewed(took_ms=290.0))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["overrun_ms"] == 40.0
    assert judgement.figures["takeovers"] == 0


@pytest.mark.parametrize(
    ("more", "epochs", "sentence"),
    [
        ([skewed(status="DEADLINE_EXCEEDED", detail="spent")], (1, 1), "a read at replica a at 4.000 s"),
        ([skewed(took_ms=900.0)], (1, 1), "ended 650 ms after its deadline"),
        ([skewed()], (1, 2), "the lease changed hands: epochs [1, 2]"),
    ],
)
def test_what_must_not_be_is_named(more: list[Record], epochs: tuple[int, int], sentence: str) -> None:
    judgement = judge(*more, epochs=epochs)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_where_nobody_with_a_wrong_clock_asked_nothing_is_known() -> None:
    assert judge().verdict is Verdict.INCONCLUSIVE
    assert judge_clock_jump(History(()), ClockLimits()).verdict is Verdict.INCONCLUSIVE
