"""The judge of a hot query, on made-up histories."""

from __future__ import annotations

from typing import Any

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.hot_key import HotLimits, judge_hot_key

FAULT_S, END_S = 6.0, 14.0


def read(at_s: float, took_ms: float, *, kind: str = "read", late_ms: float = 0.0, **more: Any) -> Record:
    return {
        "kind": kind,
        "intended_s": at_s,
        "sent_s": at_s + late_ms / 1000.0,
        "done_s": at_s + took_ms / 1000.0,
        "status": "OK",
        "expected_ndcg": 0.75,
        **more,
    }


def judge(*during: Record, base_ms: float = 5.0, hot: int = 100) -> Judgement:
    settings = {"deadline_ms": 50.0, "late_after_ms": 10.0, "capacity_per_s": 300.0}
    records = (
        {"kind": "run", "settings": settings},
        {"kind": "steady", "at_s": 5.9},
        {"kind": "fault", "at_s": FAULT_S},
        {"kind": "rollback", "at_s": END_S},
        *(read(2.0 + number / 100, base_ms) for number in range(200)),
        *(read(7.0 + number / 100, 20.0, kind="hot") for number in range(hot)),
        *during,
    )
    return judge_hot_key(History(records), HotLimits())


def others(count: int, took_ms: float, **more: Any) -> list[Record]:
    return [read(7.0 + number / 100, took_ms, **more) for number in range(count)]


def test_others_that_are_as_often_in_time_as_before_hold() -> None:
    judgement = judge(*others(99, 20.0), *others(1, 80.0))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["others_in_time_share"] == 0.99
    assert judgement.figures["base_in_time_share"] == 1.0
    assert judgement.figures["others_quality"] == 0.7425
    assert judgement.figures["hot_in_time_share"] == 1.0


def test_others_that_the_hot_one_crowds_out_deviate() -> None:
    judgement = judge(*others(95, 20.0), *others(5, 80.0))
    assert judgement.verdict is Verdict.DEVIATED
    assert "95.0% of the other queries were answered in time, 100.0% without" in judgement.reasons[0]
    refused = others(5, 2.0, status="RESOURCE_EXHAUSTED")
    assert judge(*others(95, 20.0), *refused).verdict is Verdict.DEVIATED


def test_those_that_were_late_before_as_well_say_nothing_against_it() -> None:
    assert judge(*others(100, 80.0), base_ms=80.0).verdict is Verdict.HELD


def test_a_generator_that_was_the_bottleneck_leaves_a_doubt() -> None:
    judgement = judge(*others(100, 80.0, late_ms=40.0))
    assert judgement.verdict is Verdict.INCONCLUSIVE and "sent 100.0% of them late" in judgement.reasons[0]


def test_without_a_hot_query_nothing_is_known() -> None:
    assert judge(*others(10, 5.0), hot=0).verdict is Verdict.INCONCLUSIVE
    assert judge().verdict is Verdict.INCONCLUSIVE
    assert judge_hot_key(History(()), HotLimits()).verdict is Verdict.INCONCLUSIVE
