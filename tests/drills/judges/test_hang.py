from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.checks import FailoverLimits
from drills.judges.hang import (
    StandbyHangLimits,
    judge_hang,
    judge_hang_runs,
    judge_standby_hang,
)
from tests.drills.judges.test_checks import END, entry, read, write

STOPPED: Record = {"kind": "fault", "at_s": 0.3, "fault": "hang", "replica": "a", "pid": 1}


def woken(*late: Record, ended: str = "woken") -> Record:
    return {"kind": "rollback", "at_s": 2.0, "fault": "hang", "replica": "a", "ended": ended, "late": [*late]}


def late(status: str = "Unavailable", **fields: Any) -> Record:
    return {"event_id": "late-0", "status": status, **fields}


def reign(replica: str, epoch: int) -> Record:
    return {"kind": "reign", "at_s": 0.0, "replica": replica, "epoch": epoch}


REFUSED = late(outcome="not_written")

GOOD: list[Record] = [
    write(1, 0.1, 1),
    read(0.2),
    STOPPED,
    write(2, 0.9, 2),
    read(1.0),
    woken(REFUSED, late(outcome="unknown")),
    entry(1, 1),
    entry(2, 2),
    END,
    reign("a", 1),
    reign("b", 2),
]


def with_late(*writes: Record) -> list[Record]:
    return [woken(*writes) if record["kind"] == "rollback" else record for record in GOOD]


def test_a_primary_that_is_replaced_and_wakes_fenced_holds() -> None:
    judgement = judge_hang(History(tuple(GOOD)))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    figures = judgement.figures
    assert figures["rto_ms"] == pytest.approx(610.0)
    assert (figures["killed"], figures["woken"]) == (0, 1)
    assert (figures["late_writes"], figures["late_acknowledged"]) == (2, 0)


def test_a_late_write_may_be_written_in_a_later_reign() -> None:
    records = [*with_late(late("OK", sequence=3, epoch=3)), entry(3, 3, "late-0"), reign("a", 3)]
    assert judge_hang(History(tuple(records))).verdict is Verdict.HELD


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([*GOOD, reign("c", 2)], "epoch 2 had more than one primary: b, c"),
        (
            [*with_late(late("OK", sequence=3, epoch=1)), entry(3, 1, "late-0")],
            "late-0 was acknowledged in epoch 1, which was over",
        ),
        ([*GOOD, entry(3, 1, "late-0")], "late-0 is in the log in epoch 1, which was over"),
        ([*GOOD, entry(3, 2, "late-0")], "late-0 ended as not written, but is in the log"),
        (with_late(late("OK", sequence=3, epoch=3)), "late-0 was acknowledged, but is not in the log at 3"),
        ([*GOOD, read(1.1, status="DeadlineExceeded")], "ended with DeadlineExceeded"),
        ([record for record in GOOD if record.get("event_id") != "w2"], "no write was acknowledged by a new"),
    ],
)
def test_each_broken_promise_deviates(records: list[Record], sentence: str) -> None:
    judgement = judge_hang(History(tuple(records)))
    assert judgement.verdict is Verdict.DEVIATED
    assert any(sentence in reason for reason in judgement.reasons), judgement.reasons


def test_a_reign_that_nobody_tells_of_is_a_doubt() -> None:
    judgement = judge_hang(History(tuple(record for record in GOOD if record != reign("b", 2))))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "no replica tells that it was primary of epoch 2" in judgement.reasons


def test_without_a_fault_nothing_is_known() -> None:
    judgement = judge_hang(History(tuple(record for record in GOOD if record != STOPPED)))
    assert judgement.verdict is Verdict.INCONCLUSIVE


def test_runs_are_summed_and_the_median_is_judged() -> None:
    one = judge_hang(History(tuple(GOOD)))
    both = judge_hang_runs([one, one], FailoverLimits(rto_ms=700))
    assert both.verdict is Verdict.HELD
    assert (both.figures["woken"], both.figures["late_writes"]) == (2, 4)
    assert judge_hang_runs([one, one], FailoverLimits(rto_ms=600)).verdict is Verdict.DEVIATED


def beside_a_silent_standby(took_s: float, *, stalled_s: float = 0.0, base_s: float = 0.01) -> History:
    """A hundred reads before the fault, a hundred during it, of which two take so long."""
    before = [read(0.01 * number, took_s=base_s) for number in range(100)]
    during = [read(2.0 + 0.01 * number, took_s=took_s if number >= 98 else 0.01) for number in range(100)]
    stalled = [read(4.0, late_s=stalled_s)]
    fault: Record = {"kind": "fault", "at_s": 1.9, "fault": "stop standby", "replica": "b", "pid": 1}
    records = (write(1, 0.1, 1), *before, fault, *during, {"kind": "rollback", "at_s": 3.5}, *stalled)
    return History((*records, entry(1, 1), END))


def test_reads_that_go_round_a_silent_standby_hold() -> None:
    judgement = judge_standby_hang(beside_a_silent_standby(0.09), StandbyHangLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert (judgement.figures["reads_during"], judgement.figures["read_p99_ms"]) == (100, 90.0)


def test_reads_that_wait_for_it_deviate() -> None:
    judgement = judge_standby_hang(beside_a_silent_standby(0.23), StandbyHangLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.reasons == ("reads took 230 ms (99th percentile), more than 100 ms",)


@pytest.mark.parametrize("busy", [{"stalled_s": 0.5}, {"base_s": 0.2}])
def test_on_a_machine_that_is_slow_without_a_fault_they_are_a_doubt(busy: dict[str, float]) -> None:
    judgement = judge_standby_hang(beside_a_silent_standby(0.23, **busy), StandbyHangLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too busy" in judgement.reasons[0]


def test_a_read_that_fails_deviates_and_takes_for_ever() -> None:
    history = beside_a_silent_standby(0.09)
    failing = [read(2.5, status="Unavailable"), read(2.6, status="Unavailable")]
    judgement = judge_standby_hang(History((*history.records, *failing)), StandbyHangLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.figures["read_errors"] == 2
    assert judgement.figures["slowest_read_ms"] is None
    assert any("ended with Unavailable" in reason for reason in judgement.reasons)
    assert any("took for ever" in reason for reason in judgement.reasons)


def test_a_lost_write_deviates_beside_a_silent_standby() -> None:
    history = beside_a_silent_standby(0.01)
    records = tuple(record for record in history.records if record["kind"] != "log")
    judgement = judge_standby_hang(History(records), StandbyHangLimits())
    assert judgement.verdict is Verdict.DEVIATED and "not in the log" in judgement.reasons[0]
