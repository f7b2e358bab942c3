"""What holds whatever breaks: judged on histories that are made up."""

from __future__ import annotations

from typing import Any

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.explored import ExploreLimits, judge_explored, seconds_back
from tests.drills.report.made import read, write

LIMITS = ExploreLimits()
FAULT: Record = {"kind": "fault", "at_s": 2.0, "steps": [{"replica": "a"}, {"replica": None}]}
UNDONE: Record = {"kind": "rollback", "at_s": 6.0}


def log(*sequences: int, epoch: int = 1) -> list[Record]:
    entries: list[Record] = [
        {"kind": "log", "at_s": 20.0, "sequence": one, "epoch": epoch, "event_id": f"e-{one}"}
        for one in sequences
    ]
    return [*entries, {"kind": "log_end", "at_s": 20.0, "head": max(sequences)}]


def judged(*records: Record) -> tuple[Verdict, dict[str, Any], str]:
    reads = [{**read(number / 10), "applied_sequence": 0} for number in range(100)]
    found = judge_explored(History((*reads, FAULT, UNDONE, *records)), LIMITS)
    return found.verdict, found.figures, " ".join(found.reasons)


def test_a_service_that_keeps_its_promises_holds() -> None:
    verdict, figures, _ = judged(write(1.0, 1), write(7.0, 2), *log(1, 2))
    assert verdict is Verdict.HELD
    assert (figures["faults"], figures["back_s"], figures["writes_acknowledged"]) == (1, 1.01, 2)


def test_a_lost_write_a_falling_epoch_and_unanswered_reads_deviate() -> None:
    assert "not in the log" in judged(write(1.0, 1), write(7.0, 3), *log(1, 2))[2]
    falling = [write(1.0, 1, epoch=2), write(7.0, 2, epoch=1)]
    assert judged(*falling, *log(1, 2))[0] is Verdict.DEVIATED
    failed = [{**read(3.0, status="Unavailable"), "applied_sequence": 0} for _ in range(5)]
    verdict, _, reason = judged(write(1.0, 1), write(7.0, 2), *log(1, 2), *failed)
    assert (verdict, "5 of 105 reads" in reason) == (Verdict.DEVIATED, True)


def test_writes_must_come_back_in_time() -> None:
    assert "no write was acknowledged after" in judged(write(1.0, 1), *log(1))[2]
    assert "writes were back 6.0 s" in judged(write(1.0, 1), write(11.99, 2), *log(1, 2))[2]
    # One that was under way does not count: it may have been sent to whoever died.
    assert seconds_back(History((UNDONE, {**write(5.9, 1), "done_s": 6.2}))) is None


def test_without_a_log_or_a_load_nothing_is_known() -> None:
    assert judged(write(1.0, 1), write(7.0, 2))[0] is Verdict.INCONCLUSIVE
