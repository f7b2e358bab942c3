from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.checks import (
    FailoverLimits,
    StormLimits,
    judge_failover,
    judge_failover_runs,
    judge_storm,
    recovery_ms,
)
from drills.judges.history import check_epochs, check_writes


def write(
    number: int, sent_s: float, epoch: int, *, sequence: int | None = None, status: str = "OK"
) -> Record:
    return {
        "kind": "write",
        "at_s": sent_s + 0.01,
        "event_id": f"w{number}",
        "intended_s": sent_s,
        "sent_s": sent_s,
        "done_s": sent_s + 0.01,
        "status": status,
        "sequence": number if sequence is None else sequence,
        "epoch": epoch,
        "duplicates": 0,
    }


def read(
    moment_s: float, *, status: str = "OK", took_s: float = 0.01, late_s: float = 0.0, **fields: Any
) -> Record:
    return {
        "kind": "read",
        "at_s": moment_s + took_s,
        "intended_s": moment_s,
        "sent_s": moment_s + late_s,
        "done_s": moment_s + took_s,
        "status": status,
        "tier": "late",
        "expected_ndcg": 1.0,
        "reason": "best",
        **fields,
    }


def entry(number: int, epoch: int, event_id: str | None = None) -> Record:
    return {"kind": "log", "sequence": number, "epoch": epoch, "event_id": event_id or f"w{number}"}


def killed(at_s: float) -> Record:
    return {"kind": "fault", "at_s": at_s, "fault": "kill", "replica": "a", "pid": 1}


END: Record = {"kind": "log_end", "head": 0}

GOOD: list[Record] = [
    write(1, 0.1, 1),
    write(2, 0.2, 1),
    read(0.25),
    killed(0.3),
    write(3, 0.31, 0, status="UNAVAILABLE"),
    write(4, 0.34, 2, sequence=3),
    read(0.4),
    entry(1, 1),
    entry(2, 1),
    entry(3, 2, "w4"),
    END,
]


def without(*unwanted: Record) -> list[Record]:
    return [record for record in GOOD if record not in unwanted]


def history(records: list[Record]) -> History:
    return History(tuple(records))


def test_a_clean_history_holds_with_its_figures() -> None:
    judgement = judge_failover(history(GOOD))
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["writes_acknowledged"] == 3
    assert judgement.figures["reads"] == 2
    assert judgement.figures["rto_ms"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (without(entry(2, 1)), "1 acknowledged writes are not in the log, first w2"),
        ([*GOOD, entry(4, 2, "w1")], "1 events are in the log twice, first w1"),
        ([*without(entry(3, 2, "w4")), entry(3, 0, "w4")], "the log's epoch falls from 1 to 0 at sequence 3"),
        ([*GOOD, write(5, 0.9, 1), entry(4, 2, "w5")], "was acknowledged in epoch 1 though"),
        ([*without(entry(3, 2, "w4")), entry(9, 2, "w4")], "name a place where the event is not"),
        ([*GOOD, entry(6, 2, "x")], "the log has 1 gaps"),
        ([*GOOD, entry(3, 2, "x")], "the log has 1 gaps or clashes"),
        ([*GOOD, read(0.5, status="UNAVAILABLE")], "ended with UNAVAILABLE"),
        (
            [*GOOD, {**write(6, 0.36, 2, status="Overloaded"), "outcome": "not_written"}, entry(4, 2, "w6")],
            "though their writes ended as not written",
        ),
        (
            [*GOOD, read(0.5, session="s", applied_sequence=3), read(0.6, session="s", applied_sequence=2)],
            "session s had seen sequence 3 and then read at 2",
        ),
        (without(write(4, 0.34, 2, sequence=3)), "no write was acknowledged by a new primary"),
    ],
)
def test_each_broken_promise_deviates(records: list[Record], sentence: str) -> None:
    judgement = judge_failover(history(records))
    assert judgement.verdict is Verdict.DEVIATED
    assert any(sentence in reason for reason in judgement.reasons), judgement.reasons


def test_reads_that_failed_before_the_steady_state_do_not_count() -> None:
    steady: Record = {"kind": "steady", "at_s": 0.2}
    settled = history([read(0.1, status="DeadlineExceeded"), steady, *GOOD])
    assert judge_failover(settled).verdict is Verdict.HELD
    assert judge_failover(settled).figures["reads"] == 2
    unsettled = history([read(0.25, status="DeadlineExceeded"), steady, *GOOD])
    assert judge_failover(unsettled).verdict is Verdict.DEVIATED


@pytest.mark.parametrize("records", [without(END), without(killed(0.3))])
def test_a_history_without_its_log_or_its_fault_says_nothing(records: list[Record]) -> None:
    assert judge_failover(history(records)).verdict is Verdict.INCONCLUSIVE


def test_timeouts_on_a_machine_that_stalls_the_generator_too_are_a_doubt() -> None:
    timed_out = read(0.5, status="DeadlineExceeded", took_s=0.26)
    assert judge_failover(history([*GOOD, timed_out])).verdict is Verdict.DEVIATED
    stalled = [*GOOD, timed_out, read(0.6, late_s=0.2, took_s=0.25)]
    assert judge_failover(history(stalled)).verdict is Verdict.INCONCLUSIVE
    refused = [*stalled, read(0.7, status="Unavailable")]
    assert judge_failover(history(refused)).verdict is Verdict.DEVIATED
    lost = [record for record in stalled if record != entry(2, 1)]
    assert judge_failover(history(lost)).verdict is Verdict.DEVIATED


def test_a_write_of_unknown_outcome_may_be_in_the_log_or_not() -> None:
    there = [*GOOD, entry(4, 2, "w3")]
    assert judge_failover(history(there)).verdict is Verdict.HELD
    assert judge_failover(history(GOOD)).verdict is Verdict.HELD


def test_writes_are_not_called_lost_where_the_log_is_not_known() -> None:
    assert check_writes(history(without(END))) is None


def test_recovery_ignores_acknowledgements_of_the_dead_primary() -> None:
    late_answer = {**write(7, 0.29, 1), "done_s": 0.305}
    assert recovery_ms(history([*GOOD, late_answer])) == pytest.approx(50.0)


def test_overlapping_writes_may_be_acknowledged_in_any_order() -> None:
    old = {**write(1, 0.1, 1), "done_s": 0.5}
    new = {**write(2, 0.2, 2), "done_s": 0.3}
    assert check_epochs(history([old, new])) == []


def run(rto_ms: float, *, verdict: Verdict = Verdict.HELD, base_ms: float = 5.0, **figures: Any) -> Judgement:
    zero = dict.fromkeys(("writes_acknowledged", "writes_lost", "writes_doubled", "reads", "read_errors"), 0)
    return Judgement(verdict, {"rto_ms": rto_ms, "base_write_p95_ms": base_ms, **zero, **figures})


def test_the_runs_together_report_the_recovery_and_the_sums() -> None:
    judgement = judge_failover_runs([run(10, reads=5), run(30, reads=6), run(20)], FailoverLimits())
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["rto_ms"] == {"min": 10, "p50": 20, "max": 30}
    assert judgement.figures["reads"] == 11


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([run(400), run(500), run(20)], Verdict.DEVIATED),
        ([run(400, base_ms=900.0), run(500, base_ms=900.0)], Verdict.INCONCLUSIVE),
        ([run(20), run(500)], Verdict.HELD),
        ([run(20), run(20, verdict=Verdict.DEVIATED)], Verdict.DEVIATED),
        ([run(20), run(20, verdict=Verdict.INCONCLUSIVE)], Verdict.INCONCLUSIVE),
        ([run(400, base_ms=900.0), run(20, verdict=Verdict.DEVIATED)], Verdict.DEVIATED),
        ([], Verdict.INCONCLUSIVE),
    ],
)
def test_the_verdict_over_runs(runs: list[Judgement], verdict: Verdict) -> None:
    assert judge_failover_runs(runs, FailoverLimits(rto_ms=300, base_write_ms=150)).verdict is verdict


HEADER: Record = {
    "kind": "run",
    "at_s": 0.0,
    "settings": {"load_factor": 5.0, "deadline_ms": 50.0, "late_after_ms": 5.0},
}


def test_a_storm_answered_in_time_holds_with_its_figures() -> None:
    reads = [
        read(0.01 * n, reason="best" if n < 50 else "load", expected_ndcg=1.0 if n < 50 else 0.5)
        for n in range(100)
    ]
    judgement = judge_storm(history([HEADER, *reads]), StormLimits())
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures == {
        "load_factor": 5.0,
        "offered": 100,
        "in_time": 100,
        "in_time_share": 1.0,
        "full_quality_share": 0.5,
        "quality_in_time": 0.75,
        "tiers": {"late": 1.0},
    }


def test_an_answer_after_the_deadline_is_not_in_time() -> None:
    reads = [read(0.01 * n, took_s=0.06 if n < 6 else 0.01) for n in range(100)]
    judgement = judge_storm(history([HEADER, *reads]), StormLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.figures["in_time"] == 94
    assert "6 OK, but late" in judgement.reasons[0]


def test_refused_requests_count_as_offered_and_missed() -> None:
    reads = [read(0.01 * n, status="RESOURCE_EXHAUSTED" if n % 2 else "OK") for n in range(100)]
    judgement = judge_storm(history([HEADER, *reads]), StormLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.figures["in_time_share"] == 0.5
    assert "50 RESOURCE_EXHAUSTED" in judgement.reasons[0]


def test_a_generator_that_was_late_is_a_doubt_where_answers_missed_their_time() -> None:
    reads = [
        read(0.01 * n, late_s=0.02 if n < 6 else 0.0, took_s=0.06 if n < 8 else 0.03) for n in range(100)
    ]
    judgement = judge_storm(history([HEADER, *reads]), StormLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "the load generator was the bottleneck" in judgement.reasons[0]


def test_a_generator_that_was_late_cannot_spoil_a_storm_answered_in_time() -> None:
    reads = [read(0.01 * n, late_s=0.02, took_s=0.03) for n in range(100)]
    assert judge_storm(history([HEADER, *reads]), StormLimits()).verdict is Verdict.HELD


def test_recommendations_are_judged_like_searches_and_told_apart() -> None:
    reads = [read(0.01 * n) for n in range(100)]

    def beside(late: int, **fields: object) -> list[Record]:
        return [
            {
                **read(0.01 * n, took_s=0.06 if n < late else 0.01, tier="ordered", **fields),
                "kind": "recommendation",
            }
            for n in range(50)
        ]

    held = judge_storm(history([HEADER, *reads, *beside(0, expected_ndcg=0.9)]), StormLimits())
    assert held.verdict is Verdict.HELD
    assert (held.figures["offered"], held.figures["recommendations"]["offered"]) == (100, 50)
    assert held.figures["recommendations"]["quality_in_time"] == 0.9
    unknown = judge_storm(history([HEADER, *reads, *beside(0, expected_ndcg=0.0)]), StormLimits())
    assert unknown.figures["recommendations"]["quality_in_time"] is None
    late = judge_storm(history([HEADER, *reads, *beside(5)]), StormLimits())
    assert late.verdict is Verdict.DEVIATED
    assert "of 50 recommendations" in late.reasons[0]


def test_a_storm_without_requests_is_inconclusive() -> None:
    assert judge_storm(history([HEADER]), StormLimits()).verdict is Verdict.INCONCLUSIVE
