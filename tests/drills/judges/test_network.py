"""The judges of the network and of the store, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.network import (
    CLIENTS,
    STORE,
    LagLimits,
    LossLimits,
    PartitionLimits,
    StoreLimits,
    check_staleness,
    judge_loss,
    judge_partition,
    judge_standby_lag,
    judge_store_down,
)

FAULT_S, END_S = 2.0, 5.0


def write(number: int, sent_s: float, *, epoch: int = 1, took_s: float = 0.01, **more: Any) -> Record:
    return {
        "kind": "write",
        "event_id": f"e{number}",
        "sequence": number,
        "epoch": epoch,
        "duplicates": 0,
        "intended_s": sent_s,
        "sent_s": sent_s,
        "done_s": sent_s + took_s,
        "status": "OK",
        **more,
    }


def read(sent_s: float, sequence: int, *, kind: str = "read", took_s: float = 0.01, **more: Any) -> Record:
    asked = {} if kind == "read" else {"asked": "a"}
    return {
        "kind": kind,
        **asked,
        "replica": "a",
        "intended_s": sent_s,
        "sent_s": sent_s,
        "done_s": sent_s + took_s,
        "status": "OK",
        "applied_sequence": sequence,
        "staleness_ms": 1,
        **more,
    }


def history(*more: Record, epochs: tuple[int, ...] = (1, 1, 1), readable: bool = False) -> History:
    """Three writes, before, during and after the fault at replica a, and what a test adds."""
    written = [
        write(number, at, epoch=epoch)
        for number, at, epoch in zip((1, 2, 3), (1.0, 3.0, 5.5), epochs, strict=True)
    ]
    told = {"serving": True, "applied_sequence": 3, "head_sequence": 3}
    return History(
        (
            {"kind": "steady", "at_s": 0.0},
            {
                "kind": "fault",
                "at_s": FAULT_S,
                "fault": "cut",
                "replica": "a",
                "store_readable": readable,
            },
            {"kind": "rollback", "at_s": END_S, "fault": "cut"},
            read(1.5, 1),
            *written,
            *(
                {"kind": "log", "sequence": w["sequence"], "epoch": w["epoch"], "event_id": w["event_id"]}
                for w in written
            ),
            {"kind": "log_end", "head": 3},
            {"kind": "replica", "replica": "a", **told},
            {"kind": "replica", "replica": "b", **told},
            *more,
        )
    )


def connection(at_s: float, ready: bool, replica: str = "a") -> Record:
    return {"kind": "connection", "at_s": at_s, "replica": replica, "ready": ready}


def trust(at_s: float, trusted: bool, replica: str = "a") -> Record:
    return {"kind": "trust", "at_s": at_s, "replica": replica, "trusted": trusted}


def partition(*more: Record, between: str = CLIENTS, epochs: tuple[int, ...] = (1, 1, 1)) -> Judgement:
    limits = PartitionLimits(writes_back_ms=1100.0 if between == STORE else None)
    return judge_partition(history(*more, epochs=epochs), limits, between)


def stale(sent_s: float, **more: Any) -> Record:
    """An answer of the replica that was cut off, as stale as it says."""
    return read(
        sent_s, 1, kind="replica_read", **{"staleness_ms": round((sent_s - FAULT_S) * 1000) + 50, **more}
    )


def test_a_cut_from_the_clients_that_they_know_of_soon_holds() -> None:
    judgement = partition(trust(2.35, False), connection(2.9, False), trust(5.1, True))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["detection_ms"] == 350.0
    assert judgement.figures["connection_lost_ms"] == 900.0
    assert judgement.figures["back_after_healing_ms"] == 510.0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "never came to this: clients knew of the cut"),
        ([trust(3.0, False)], "clients knew of the cut after 1000 ms"),
        # Another replica's connection, or one that broke before, says nothing of the cut.
        ([trust(2.1, False, "b"), trust(1.0, False)], "never came to this"),
        ([trust(2.3, False), read(3.0, 2, status="Unavailable")], "a read at 3.000 s ended with"),
        (
            [trust(2.3, False), read(3.0, 2, kind="replica_read", status="UNAVAILABLE")],
            "a read at replica a at 3.000 s",
        ),
        (
            [trust(2.3, False), {"kind": "replica", "replica": "c", "detail": "UNAVAILABLE"}],
            "replica c did not tell its state",
        ),
        (
            [
                trust(2.3, False),
                {"kind": "replica", "replica": "c", "serving": False, "applied_sequence": 3},
            ],
            "replica c does not serve",
        ),
        (
            [
                trust(2.3, False),
                {"kind": "replica", "replica": "c", "serving": True, "applied_sequence": 2},
            ],
            "has applied 2 of 3",
        ),
        ([trust(2.3, False), write(9, 3.5)], "not in the log"),
    ],
)
def test_what_must_not_be_in_a_partition_is_named(more: list[Record], sentence: str) -> None:
    judgement = partition(*more)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_cut_from_the_store_that_another_primary_answers_holds() -> None:
    judgement = partition(stale(3.5), stale(4.5), between=STORE, epochs=(1, 2, 2))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["rto_ms"] == 1010.0
    assert judgement.figures["marked_stale"] == 2


@pytest.mark.parametrize(
    ("more", "epochs", "sentence"),
    [
        # The primary that was cut off goes on acknowledging.
        ([stale(3.5)], (1, 1, 2), "in epoch 1 of the primary that was cut off"),
        ([stale(3.5)], (1, 1, 1), "never came to this: writes were back"),
        ([stale(3.5)], (2, 1, 2), "epoch falls"),
        ([stale(4.5, staleness_ms=10)], (1, 2, 2), "called its answer 10 ms stale"),
    ],
)
def test_what_must_not_be_behind_a_cut_from_the_store_is_named(
    more: list[Record], epochs: tuple[int, ...], sentence: str
) -> None:
    judgement = partition(*more, between=STORE, epochs=epochs)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_replica_that_nobody_asked_leaves_a_doubt() -> None:
    judgement = partition(between=STORE, epochs=(1, 2, 2))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "nothing is known of its staleness" in judgement.reasons[0]


def test_without_a_cut_nothing_is_known() -> None:
    assert judge_partition(History(()), PartitionLimits(), CLIENTS).verdict is Verdict.INCONCLUSIVE


def test_an_answer_that_lacks_a_write_must_say_for_how_long() -> None:
    # Sequence 2 was acknowledged at 3.01 s.
    late = read(4.01, 1)
    [sentence] = check_staleness(history(late))
    assert "without what had been acknowledged 1000 ms before, and called itself 1 ms stale" in sentence
    assert not check_staleness(history({**late, "staleness_ms": 990}))
    assert not check_staleness(history({**late, "applied_sequence": 2}))
    assert not check_staleness(history(read(3.0, 1)))


def store_down(*more: Record, readable: bool = False) -> Judgement:
    failed = write(7, 3.5, status="DeadlineExceeded", outcome="not_written", took_s=1.0)
    return judge_store_down(history(failed, *more, readable=readable), StoreLimits())


def test_an_outage_that_is_owned_up_to_and_heals_holds() -> None:
    judgement = store_down(stale(4.0))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["marked_stale"] == 1
    assert judgement.figures["slowest_write_ms"] == 1000.0
    assert store_down(readable=True).verdict is Verdict.HELD


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            [stale(4.0), write(8, 3.2, status="Unavailable", took_s=4.0)],
            "1 writes ended after their deadline",
        ),
        ([stale(4.0, staleness_ms=0)], "called its answer 0 ms stale"),
        ([stale(4.0), read(4.2, 2, status="Unavailable")], "a read at 4.200 s ended"),
    ],
)
def test_what_must_not_be_in_an_outage_is_named(more: list[Record], sentence: str) -> None:
    judgement = store_down(*more)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_writes_that_do_not_come_back_deviate_and_an_outage_that_nobody_felt_is_a_doubt() -> None:
    whole = history(stale(4.0), write(7, 3.5, status="Unavailable", outcome="unknown"))
    gone = History(tuple(r for r in whole.records if r["kind"] != "write" or r["done_s"] < END_S))
    judgement = judge_store_down(gone, StoreLimits())
    assert "never came to this: writes were back" in " ".join(judgement.reasons)
    unfelt = judge_store_down(history(stale(4.0)), StoreLimits())
    assert unfelt.verdict is Verdict.INCONCLUSIVE and "no write failed or waited" in unfelt.reasons[0]


def test_a_machine_that_stands_still_excuses_no_more_than_that() -> None:
    stalled = read(4.2, 2)
    stalled.update(sent_s=stalled["sent_s"] + 0.2, done_s=stalled["done_s"] + 0.2)

    def judged(took_s: float) -> Judgement:
        return store_down(stale(4.0), stalled, write(8, 3.2, status="Unavailable", took_s=took_s))

    assert judged(4.0).verdict is Verdict.DEVIATED
    assert judged(1.4).verdict is Verdict.INCONCLUSIVE and "too busy to judge" in judged(1.4).reasons[0]


def lag(*more: Record) -> Judgement:
    return judge_standby_lag(history(*more), LagLimits())


def session_read(sent_s: float, sequence: int, wanted: int, **more: Any) -> Record:
    return read(sent_s, sequence, kind="session_read", min_sequence=wanted, **more)


def test_a_standby_that_leaves_and_comes_back_holds() -> None:
    judgement = lag(
        connection(4.2, False),
        connection(5.4, True),
        session_read(3.5, 0, 2, status="UNAVAILABLE"),
        session_read(5.8, 3, 3),
    )
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["left_health_ms"] == 2200.0
    assert judgement.figures["back_ms"] == 400.0
    assert judgement.figures["session_reads"] == 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "never came to this: the standby left health"),
        ([connection(4.9, False), connection(5.4, True)], "left health after 2900 ms"),
        ([connection(2.5, False), connection(5.4, True)], "left health after 500 ms already"),
        ([connection(4.2, False)], "never came to this: the standby was back"),
        ([connection(4.2, False), connection(5.4, True), session_read(3.6, 1, 2)], "and answered at 1"),
    ],
)
def test_what_must_not_be_of_a_lagging_standby_is_named(more: list[Record], sentence: str) -> None:
    judgement = lag(session_read(3.5, 0, 2, status="UNAVAILABLE"), *more)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def loss(*more: Record, dropped: int = 7, detected_ms: float | None = None) -> Judgement:
    records = [
        {**record, "dropped": dropped} if record["kind"] == "rollback" else record
        for record in history(*more).records
    ]
    return judge_loss(History(tuple(records)), LossLimits(detected_ms=detected_ms))


def test_lost_packets_that_no_read_fails_for_hold() -> None:
    judgement = loss(read(3.0, 1, took_s=0.2))
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert (judgement.figures["dropped"], judgement.figures["read_p99_ms"]) == (7, 200.0)
    assert loss(trust(2.4, False), detected_ms=600.0).figures["detection_ms"] == 400.0


def test_lost_packets_that_a_read_fails_for_or_that_nobody_notices_deviate() -> None:
    assert "a read at 3.000 s" in loss(read(3.0, 1, status="DeadlineExceeded")).reasons[0]
    assert "clients knew of it after 900 ms" in loss(trust(2.9, False), detected_ms=600.0).reasons[0]


def test_where_nothing_was_dropped_nothing_is_known() -> None:
    judgement = loss(dropped=0)
    assert judgement.verdict is Verdict.INCONCLUSIVE and "not one packet" in judgement.reasons[0]
