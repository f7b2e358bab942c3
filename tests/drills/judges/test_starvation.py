from __future__ import annotations

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.starvation import (
    MEMORY_FIGURES,
    STARVATION_FIGURES,
    MemoryLimits,
    StarvationLimits,
    asked_of,
    judge_cpu_starvation,
    judge_memory_pressure,
)
from tests.drills.judges.records import ENDED, acknowledged, direct, fault, header, log, read, rollback


def pressed(*more: Record, ended: tuple[tuple[str, int], ...] = (("a", -9),), kills: int = 1) -> History:
    """The primary, a, ran out of memory at 10 s; b writes from 10.3 s on."""
    return History(
        (
            header(),
            fault(10.0, "out_of_memory", replica="a"),
            rollback(12.0),
            *({"kind": "exit", "replica": replica, "code": code} for replica, code in ended),
            {"kind": "oom", "kills": kills},
            read(11.0),
            acknowledged(1, 5.0),
            acknowledged(2, 10.3, epoch=2),
            *log(1),
            *log(2, epoch=2, first=2),
            ENDED,
            *more,
        )
    )


def test_a_replica_that_dies_alone_holds() -> None:
    judgement = judge_memory_pressure(pressed(), MemoryLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(MEMORY_FIGURES)
    assert (judgement.figures["victims_ended"], judgement.figures["others_ended"]) == (1, 0)


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        # The control: nothing keeps the replicas' memory apart.
        (pressed(ended=(("a", -9), ("b", -9))), "did not die alone: b ended as well"),
        (pressed(ended=(("c", -9),)), "did not die alone: c ended as well, a did not"),
        (pressed(read(10.5, "Unavailable")), "ended with Unavailable"),
        (pressed(acknowledged(9, 9.0)), "not in the log"),
    ],
)
def test_what_memory_pressure_must_not_do(history: History, sentence: str) -> None:
    judgement = judge_memory_pressure(history, MemoryLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


@pytest.mark.parametrize("history", [pressed(ended=()), pressed(kills=0), pressed(ended=(("a", 74),))])
def test_where_the_kernel_ended_nobody_nothing_is_known(history: History) -> None:
    assert judge_memory_pressure(history, MemoryLimits()).verdict is Verdict.INCONCLUSIVE


def starved(*more: Record, throttled_ms: float = 900.0) -> History:
    """b had a fifth of a core from 10 to 20 s and refused a tenth of what it was asked."""
    mine = [
        direct("b", 13.0 + n / 20, "RESOURCE_EXHAUSTED") if n % 10 == 0 else direct("b", 13.0 + n / 20)
        for n in range(100)
    ]
    return History(
        (
            header(deadline_ms=50.0),
            fault(10.0, "slow_core", replica="b"),
            rollback(20.0),
            {"kind": "throttled", "ms": throttled_ms},
            direct("b", 5.0, expected_ndcg=0.9),
            *mine,
            *(direct("a", 13.0 + n / 20) for n in range(100)),
            *(read(13.0 + n / 20) for n in range(100)),
            acknowledged(1, 5.0),
            *log(1),
            ENDED,
            *more,
        )
    )


def test_a_starved_replica_that_refuses_or_answers_in_time_holds() -> None:
    judgement = judge_cpu_starvation(starved(), StarvationLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    figures = judgement.figures
    assert set(figures) == set(STARVATION_FIGURES)
    assert (figures["starved_asked"], figures["starved_refused"], figures["starved_in_time"]) == (100, 10, 90)
    assert (figures["starved_in_time_share"], figures["others_in_time_share"]) == (1.0, 1.0)
    assert (figures["starved_quality_before"], figures["starved_quality"]) == (0.9, 0.75)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        # The control without deadlines: answers that come, but late.
        ([direct("b", 15.0, took_s=0.06) for _ in range(5)], "the starved one, answered 90 of the 95"),
        (
            [direct("b", 15.0, "SILENT", took_s=0.05) for _ in range(5)],
            "the starved one, answered 90 of the 95",
        ),
        # A refusal that comes too late helps nobody.
        (
            [direct("b", 15.0, "RESOURCE_EXHAUSTED", took_s=0.06) for _ in range(5)],
            "the starved one, answered 90 of the 95",
        ),
        ([direct("a", 15.0, took_s=0.06) for _ in range(7)], "replica a answered 100 of the 107"),
        (
            [read(15.0, "DeadlineExceeded", took_s=0.05) for _ in range(3)],
            "100 of 103 searches through the client were answered in time",
        ),
    ],
)
def test_lateness_deviates_at_each_replica_and_for_callers(more: list[Record], sentence: str) -> None:
    judgement = judge_cpu_starvation(starved(*more), StarvationLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_late_answer_among_some_hundred_may_be_chance() -> None:
    judgement = judge_cpu_starvation(starved(direct("b", 15.0, took_s=0.06)), StarvationLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["starved_in_time_share"] == 0.989


def test_what_comes_before_the_replica_has_learnt_does_not_count() -> None:
    early = [direct("b", 10.5, took_s=0.2) for _ in range(50)]
    assert judge_cpu_starvation(starved(*early), StarvationLimits()).verdict is Verdict.HELD


def test_a_replica_that_refuses_everything_deviates() -> None:
    records = [
        {**record, "status": "RESOURCE_EXHAUSTED"} if record.get("asked") == "b" else record
        for record in starved().records
    ]
    judgement = judge_cpu_starvation(History(tuple(records)), StarvationLimits())
    assert "the starved replica answered nothing in time" in judgement.reasons


def test_a_replica_that_never_waited_was_not_starved() -> None:
    judgement = judge_cpu_starvation(starved(throttled_ms=0.0), StarvationLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reasons == ("the replica never had to wait for its core",)


def test_counting_of_direct_searches() -> None:
    one = asked_of([direct("a", 1.0), direct("a", 2.0, "UNREACHED"), direct("a", 3.0, "UNAVAILABLE")], 0.05)
    assert (one.asked, one.refused, one.in_time, one.in_time_share) == (3, 1, 1, 0.5)
    assert asked_of([], 0.05).in_time_share is None
