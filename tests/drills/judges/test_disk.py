from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.disk import (
    DISK_FULL_FIGURES,
    FSYNC_ERROR_FIGURES,
    SLOW_DISK_FIGURES,
    DiskFullLimits,
    FsyncErrorLimits,
    SlowDiskLimits,
    judge_disk_full,
    judge_fsync_error,
    judge_slow_disk,
)
from tests.drills.judges.records import ENDED, acknowledged, fault, header, log, read, refused, rollback

SETTINGS = header(read_deadline_ms=250.0, write_deadline_ms=1000.0, delay_ms=200.0)
DURING, AFTER = 10.0, 20.0


def slow(*more: Record, without: tuple[str, ...] = ()) -> History:
    """A slow disk from 10 to 20 s on which all went well, and what a test adds or leaves out."""
    records: list[Record] = [
        SETTINGS,
        fault(DURING, "slow_disk"),
        rollback(AFTER),
        {"kind": "tampered", "calls": 40},
        read(5.0),
        read(15.0),
        read(21.0),
        acknowledged(1, 5.0),
        acknowledged(2, 14.0, took_s=0.4),
        acknowledged(3, 21.0),
        refused(90, 15.0),
        refused(91, 16.0),
        *log(1, 2, 3),
        ENDED,
        *more,
    ]
    return History(tuple(record for record in records if record["kind"] not in without))


def test_writes_refused_by_a_slow_disk_hold() -> None:
    judgement = judge_slow_disk(slow(), SlowDiskLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(SLOW_DISK_FIGURES)
    assert judgement.figures["fault_writes_refused"] == 2
    assert judgement.figures["reads_in_time_share"] == 1.0
    assert judgement.figures["writes_back_ms"] == 1010.0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([read(15.0, took_s=0.3)], "1 of 2 reads during the fault were answered in time"),
        ([read(15.0, status="Unavailable")], "a read at 15.000 s ended with Unavailable"),
        ([refused(92, 15.0, took_s=1.3)], "had no outcome 250 ms after their deadline"),
        # The control without shedding: everybody waits until their time is over.
        (
            [
                refused(n, 14.0, status="DeadlineExceeded", took_s=1.0, outcome="unknown")
                for n in range(50, 90)
            ],
            "of 42 writes beyond what the disk could do, 2 were refused",
        ),
        ([acknowledged(9, 12.0)], "1 acknowledged writes are not in the log"),
        ([refused(93, 24.0)], "writes were back 4010 ms after the fault had ended"),
    ],
)
def test_what_a_slow_disk_must_not_do(more: list[Record], sentence: str) -> None:
    judgement = judge_slow_disk(slow(*more), SlowDiskLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_disk_that_kept_up_or_was_never_slow_tells_nothing() -> None:
    kept_up = History(tuple(record for record in slow().records if record.get("status") != "Overloaded"))
    judgement = judge_slow_disk(kept_up, SlowDiskLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE and "kept up" in judgement.reasons[0]
    untouched = judge_slow_disk(slow(without=("tampered",)), SlowDiskLimits())
    assert untouched.verdict is Verdict.INCONCLUSIVE and "no sync was delayed" in untouched.reasons
    unfelt = [
        {**record, "done_s": 14.01} if record["kind"] == "write" and record["event_id"] == "w2" else record
        for record in slow().records
    ]
    quick = judge_slow_disk(History(tuple(unfelt)), SlowDiskLimits())
    assert quick.verdict is Verdict.INCONCLUSIVE and "the delay was not felt" in quick.reasons[0]


def test_silence_on_a_machine_that_stalls_is_a_doubt() -> None:
    silent = (refused(92, 15.0, took_s=1.5), read(15.5, late_s=0.4))
    judgement = judge_slow_disk(slow(*silent), SlowDiskLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "kept the load generator itself waiting" in judgement.reasons[0]


def test_no_write_after_the_fault_is_no_recovery() -> None:
    records = [record for record in slow().records if record.get("event_id") != "w3"]
    judgement = judge_slow_disk(History(tuple(records)), SlowDiskLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert "no write was acknowledged after the fault" in judgement.reasons


def full(*more: Record) -> History:
    """A disk that was full from 10 to 20 s: one write found room, the others were refused."""
    return History(
        (
            SETTINGS,
            fault(DURING, "full_disk"),
            rollback(AFTER),
            read(15.0),
            acknowledged(1, 5.0),
            acknowledged(2, 12.0),
            refused(90, 15.0),
            acknowledged(3, 20.5),
            *log(1, 2, 3),
            ENDED,
            *more,
        )
    )


def test_a_full_disk_that_refuses_holds() -> None:
    judgement = judge_disk_full(full(), DiskFullLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(DISK_FULL_FIGURES)
    assert judgement.figures["fault_writes"] == 2
    assert judgement.figures["fault_writes_acknowledged"] == 1
    assert judgement.figures["writes_back_ms"] == 510.0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        # The control: the replicas end instead of refusing.
        ([refused(91, 16.0, status="Unavailable", outcome="unknown")], "1 ended otherwise: Unavailable"),
        ([refused(92, 17.0, took_s=1.4)], "had no outcome 250 ms after their deadline"),
        ([read(17.0, status="Unavailable")], "ended with Unavailable"),
        ([acknowledged(9, 12.0)], "not in the log"),
        ([refused(93, 25.0)], "writes were back"),
    ],
)
def test_what_a_full_disk_must_not_do(more: list[Record], sentence: str) -> None:
    judgement = judge_disk_full(full(*more), DiskFullLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_disk_with_room_for_every_write_was_not_full() -> None:
    records = [record for record in full().records if record.get("status") != "Overloaded"]
    judgement = judge_disk_full(History(tuple(records)), DiskFullLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "still had room of its own" in judgement.reasons[0]


def failing(*more: Record, code: int | None = 74, **changed: Any) -> History:
    """Syncs of the primary that fail from 10 s on; a standby writes from 10.2 s on."""
    return History(
        (
            SETTINGS,
            fault(DURING, "fsync_error", replica="a", attached_after_s=0.05),
            rollback(AFTER),
            {"kind": "tampered", "calls": 1},
            {"kind": "exit", "replica": "a", "code": code},
            read(15.0),
            acknowledged(1, 5.0),
            acknowledged(2, 10.2, epoch=2),
            *log(1),
            *log(2, epoch=2, first=2),
            ENDED,
            *more,
        )
    )


def test_a_primary_that_ends_and_acknowledges_nothing_holds() -> None:
    judgement = judge_fsync_error(failing(), FsyncErrorLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(FSYNC_ERROR_FIGURES)
    assert judgement.figures["rto_ms"] == 210.0
    assert judgement.figures["ended_by_itself"]


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        # The control: the process goes on after its sync has failed.
        (failing(code=None), "the primary did not end after its sync had failed, instead of 74"),
        (failing(code=-9), "the primary ended with code -9"),
        (
            failing(acknowledged(3, 10.1), *log(3, first=3)),
            "1 writes were acknowledged in epoch 1 though no sync of its primary succeeded any more",
        ),
        (failing(acknowledged(9, 11.0, epoch=2)), "not in the log"),
    ],
)
def test_what_a_failing_sync_must_not_lead_to(history: History, sentence: str) -> None:
    judgement = judge_fsync_error(history, FsyncErrorLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_takeover_that_is_late_or_never_comes_deviates() -> None:
    assert judge_fsync_error(failing(), FsyncErrorLimits(rto_ms=100)).verdict is Verdict.DEVIATED
    alone = [r for r in failing().records if r.get("event_id") != "w2" and r.get("sequence") != 2]
    judgement = judge_fsync_error(History(tuple(alone)), FsyncErrorLimits())
    assert "no write was acknowledged by a new primary after the fault" in judgement.reasons


def test_a_sync_that_never_failed_tells_nothing() -> None:
    records = [record for record in failing(code=None).records if record["kind"] != "tampered"]
    judgement = judge_fsync_error(History(tuple(records)), FsyncErrorLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "no sync failed" in judgement.reasons
