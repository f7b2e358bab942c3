"""What histories that are made up say of a point."""

from __future__ import annotations

from typing import Any

import pytest

from drills.journal import History, Record
from drills.tune.judge import HANG, KILL, PAUSE, false_takeovers, judge_calm, judge_flood, judge_step
from tests.drills.judges.records import ENDED, acknowledged, fault, header, read, rollback

BEFORE: Record = {"kind": "epoch_before", "at_s": 0.0, "epoch": 1}


def reign(epoch: int, replica: str = "a") -> Record:
    return {"kind": "reign", "at_s": 0.0, "epoch": epoch, "replica": replica}


def logged(number: int, epoch: int = 1) -> Record:
    return {"kind": "log", "sequence": number, "epoch": epoch, "event_id": f"w{number}"}


def history(*records: Record, kind: str = KILL, taken_over: bool = True) -> History:
    """A fault at 2 s; of the writes w1 and w2 the second one is due after it."""
    epoch = 2 if taken_over else 1
    return History(
        (
            header(),
            BEFORE,
            {"kind": "steady", "at_s": 0.5},
            acknowledged(1, 1.0),
            fault(2.0, kind),
            acknowledged(2, 2.05, took_s=0.35, epoch=epoch),
            rollback(3.0),
            logged(1),
            logged(2, epoch),
            reign(1),
            *((reign(2, "b"),) if taken_over else ()),
            ENDED,
            *records,
        )
    )


def judged(found: History, kind: str = KILL, **changes: Any) -> Any:
    return judge_step(found, kind, **{"read_within_ms": 100.0, **changes})


def test_writes_are_away_until_one_that_was_due_after_the_fault_is_acknowledged() -> None:
    step = judged(history())
    assert step.unavailable_s == pytest.approx(0.4)
    assert not step.violations and not step.doubts


def test_an_acknowledgement_that_was_on_its_way_does_not_count() -> None:
    late = acknowledged(3, 1.95, took_s=0.1)
    assert judged(history(late, logged(3))).unavailable_s == pytest.approx(0.4)


def test_reads_that_fail_or_come_late_are_missed() -> None:
    step = judged(history(read(1.0), read(1.1, took_s=0.15), read(1.2, "DeadlineExceeded")))
    assert (step.missed, step.reads) == (2, 3)


@pytest.mark.parametrize(
    ("kind", "epochs", "extra"),
    [(KILL, [2], 0), (KILL, [2, 3], 1), (HANG, [], 0), (HANG, [2], 0), (HANG, [2, 3, 4], 2), (PAUSE, [2], 1)],
)
def test_more_reigns_than_a_fault_gives_reason_for_are_false_takeovers(
    kind: str, epochs: list[int], extra: int
) -> None:
    found = false_takeovers(History((BEFORE, reign(1), *(reign(epoch, "b") for epoch in epochs))), kind)
    assert len(found) == bool(extra)
    if extra:
        assert found[0].startswith(f"{extra} false takeover")


def test_a_takeover_that_no_reign_tells_of_is_seen_in_the_log() -> None:
    assert false_takeovers(History((BEFORE, logged(1, epoch=2))), PAUSE)


def test_a_lost_write_two_primaries_and_a_falling_epoch_are_violations() -> None:
    lost = judged(history(acknowledged(9, 1.1)))
    assert "acknowledged writes are not in the log" in lost.violations[0]
    twice = judged(history(reign(2, "c")))
    assert any("more than one primary" in one for one in twice.violations)
    fallen = judged(history(acknowledged(3, 2.5, epoch=1), logged(3, 1)))
    assert any("epoch" in one for one in fallen.violations)


def test_writes_that_do_not_come_back_are_a_violation() -> None:
    records = [one for one in history().records if one.get("event_id") != "w2"]
    step = judged(History(tuple(records)))
    assert step.unavailable_s is None
    assert any("no write was acknowledged any more" in one for one in step.violations)


def test_a_hang_shorter_than_the_lease_needs_no_takeover() -> None:
    step = judged(history(kind=HANG, taken_over=False), HANG)
    assert not step.violations and step.unavailable_s == pytest.approx(0.4)


def test_without_the_fault_or_the_whole_log_nothing_is_known() -> None:
    probe = {"kind": "probe", "phase": "before", "probe": "p", "held": False, "detail": "primaries: none"}
    step = judged(History((header(), BEFORE, probe)))
    assert step.doubts == ("there was no kill: primaries: none",)
    without = History(tuple(one for one in history().records if one is not ENDED))
    assert judged(without).doubts == ("the log could not be read to its end",)


def test_a_flood_is_what_was_offered_missed_and_lost() -> None:
    reads = [read(0.0), read(0.1, took_s=0.06), read(0.2, "Overloaded"), read(0.3, late_s=0.02, took_s=0.03)]
    flood = judge_flood(reads, deadline_ms=50.0, late_after_ms=10.0)
    assert (flood.offered, flood.missed, flood.late_share) == (4, 2, 0.25)
    assert flood.quality_lost == pytest.approx(0.25)
    nothing = judge_flood([], deadline_ms=50.0, late_after_ms=10.0)
    assert (nothing.offered, nothing.quality_lost) == (0, 1.0)


def test_calm_tells_what_the_rules_need_and_too_little_tells_nothing() -> None:
    reads = [read(0.1 * n, took_s=0.01 + 0.001 * n, ranked_ms=4.0) for n in range(20)]
    writes = [acknowledged(n, 0.1 * n, took_s=0.02 + 0.01 * (n == 7)) for n in range(20)]
    calm = judge_calm(History((header(), *reads, *writes)))
    assert calm is not None
    assert calm["write_p999_ms"] == pytest.approx(30.0) and calm["writes"] == 20
    assert calm["service_ms"] == 4.0
    assert calm["overhead_p99_ms"] == pytest.approx(25.0)
    assert calm["read_p95_ms"] == pytest.approx(28.0)
    assert judge_calm(History((header(), *reads[:5], *writes))) is None
