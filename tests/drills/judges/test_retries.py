"""The judge of a storm of retries, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.retries import RetryLimits, judge_retry_storm

END_S = 10.0


def read(at_s: float, took_ms: float = 5.0, *, late_ms: float = 0.0, **more: Any) -> Record:
    return {
        "kind": "read",
        "client": 0,
        "intended_s": at_s,
        "sent_s": at_s + late_ms / 1000.0,
        "done_s": at_s + took_ms / 1000.0,
        "status": "OK",
        **more,
    }


def sendings(reads: int, sent: int) -> Record:
    budgets = {"hedge_share": 0.1, "hedge_burst": 20, "retry_tokens": 50.0, "retry_token_ratio": 0.2}
    return {"kind": "sendings", "client": 0, "reads": reads, "sent": sent, **budgets}


def judge(*more: Record, bad_until_s: float = END_S, late_ms: float = 0.0, rude: int = 900) -> Judgement:
    """Reads for ten seconds after the storm, refused up to a moment, and what a test adds."""
    after = [
        read(at, late_ms=late_ms) if at >= bad_until_s else read(at, status="Overloaded", late_ms=late_ms)
        for at in (END_S + number / 20 for number in range(200))
    ]
    records = (
        {"kind": "fault", "at_s": 3.0},
        {"kind": "rollback", "at_s": END_S, "rude_sent": rude, "rude_answered": 10},
        {"kind": "replica", "replica": "a", "serving": True, "applied_sequence": 5},
        *after,
        *(more or (sendings(200, 260),)),
    )
    return judge_retry_storm(History(records), RetryLimits())


def test_a_service_that_is_back_soon_and_a_client_within_its_budget_hold() -> None:
    judgement = judge(bad_until_s=12.0)
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["recovered_ms"] == pytest.approx(2000.0)
    assert judgement.figures["amplification"] == 1.3
    # 200 reads, 20 + 20 hedges, 50 tokens and a fifth of 160 answers.
    assert judgement.figures["allowed"] == 322


def test_a_client_that_sends_more_than_it_states_deviates() -> None:
    judgement = judge(sendings(200, 341))
    assert judgement.verdict is Verdict.DEVIATED
    assert "client 0 sent 341 times for 200 reads; its budgets allow 330" in judgement.reasons


@pytest.mark.parametrize(
    ("bad_until_s", "sentence"),
    [(16.0, "back in time 6000 ms after the storm"), (30.0, "never back in time")],
)
def test_a_service_that_comes_back_late_deviates(bad_until_s: float, sentence: str) -> None:
    judgement = judge(bad_until_s=bad_until_s)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in judgement.reasons[0]


def test_a_machine_that_stalls_leaves_a_doubt() -> None:
    judgement = judge(bad_until_s=30.0, late_ms=300.0)
    assert judgement.verdict is Verdict.INCONCLUSIVE and "kept the load generator" in judgement.reasons[0]


def test_a_replica_that_does_not_come_back_deviates() -> None:
    gone = {"kind": "replica", "replica": "b", "detail": "UNAVAILABLE"}
    assert "replica b did not tell" in judge(sendings(200, 260), gone).reasons[0]


def test_without_a_storm_or_its_counts_nothing_is_known() -> None:
    assert judge(rude=0).verdict is Verdict.INCONCLUSIVE
    assert judge({"kind": "other"}).verdict is Verdict.INCONCLUSIVE
    assert judge_retry_storm(History(()), RetryLimits()).verdict is Verdict.INCONCLUSIVE
