"""The judge of a slow network, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.latency import LatencyLimits, judge_latency

FAULT_S, END_S = 10.0, 20.0


def read(sent_s: float, took_ms: float, **more: Any) -> Record:
    return {
        "kind": "read",
        "replica": "a",
        "intended_s": sent_s,
        "sent_s": sent_s,
        "done_s": sent_s + took_ms / 1000.0,
        "status": "OK",
        "reason": "best",
        "budget_ms": 49.0 if sent_s < FAULT_S else 39.0,
        "query": "shoe",
        "product_ids": ["p1", "p2"],
        **more,
    }


def judge(*reads: Record, unhurried: bool = True) -> Judgement:
    records = [
        {"kind": "fault", "at_s": FAULT_S, "replica": "a", "slowed": ["a"], "latency_ms": 20.0},
        {"kind": "rollback", "at_s": END_S},
        *(read(1.0 + number / 100, 5.0) for number in range(200)),
        *reads,
    ]
    if unhurried:
        records.append({"kind": "unhurried", "query": "shoe", "product_ids": ["p1", "p2"]})
    return judge_latency(History(tuple(records)), LatencyLimits())


def slow(count: int = 200, took_ms: float = 28.0, **more: Any) -> list[Record]:
    return [read(11.0 + number / 100, took_ms, **more) for number in range(count)]


def test_answers_that_are_later_but_in_time_hold() -> None:
    judgement = judge(*slow())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["in_time_share"] == 1.0
    assert judgement.figures["read_p99_ms"] == 28.0
    assert judgement.figures["budget_lost_ms"] == 10.0
    assert judgement.figures["best_share"] == 1.0


def test_an_answer_by_a_lesser_plan_may_differ_if_it_says_so() -> None:
    judgement = judge(*slow(reason="deadline", product_ids=["p2", "p1"]))
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["best_share"] == 0.0


@pytest.mark.parametrize(
    ("reads", "sentence"),
    [
        (slow(97) + slow(3, took_ms=60.0), "97.0% of 100 searches were answered in time"),
        (slow(97) + slow(3, status="DeadlineExceeded"), "97.0% of 100 searches"),
        (slow(status="DeadlineExceeded"), "0.0% of 200 searches"),
        (slow(product_ids=["p2", "p1"]), "called itself the best plan's"),
        (slow(budget_ms=49.0), "saw 0 ms less than before"),
    ],
)
def test_what_must_not_be_is_named(reads: list[Record], sentence: str) -> None:
    judgement = judge(*reads)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_what_was_late_before_or_on_a_machine_that_stalls_is_a_doubt() -> None:
    late_before = [read(2.0 + number / 100, 70.0) for number in range(50)]
    assert "only 80.0% were before" in " ".join(judge(*late_before, *slow(took_ms=60.0)).reasons)
    stalled = {**read(12.0, 5.0), "intended_s": 11.5}
    judgement = judge(stalled, *slow(took_ms=60.0))
    assert judgement.verdict is Verdict.INCONCLUSIVE and "kept the load generator" in judgement.reasons[0]


def test_callers_who_go_to_replicas_that_are_not_slowed_leave_no_doubt() -> None:
    judgement = judge(read(5.0, 5.0, replica="b"), *slow(took_ms=6.0, replica="b", budget_ms=48.0))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["budget_lost_ms"] is None


def test_without_answers_or_anything_to_compare_them_with_nothing_is_known() -> None:
    assert judge().verdict is Verdict.INCONCLUSIVE
    assert judge(*slow(), unhurried=False).verdict is Verdict.INCONCLUSIVE
    assert judge(*slow(replica="b")).verdict is Verdict.INCONCLUSIVE
    assert judge_latency(History(()), LatencyLimits()).verdict is Verdict.INCONCLUSIVE
