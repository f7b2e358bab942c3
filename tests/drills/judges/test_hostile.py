"""The judge of hostile requests, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.hostile import MIB, HostileLimits, crashes, growth_mib, judge_hostile

FAULT_S, END_S = 2.0, 17.0


def hostile(at_s: float, status: str = "INVALID_ARGUMENT", took_ms: float = 4.0, **more: Any) -> Record:
    return {
        "kind": "hostile",
        "asked": "a",
        "request": "a query of a megabyte",
        "accepted": ["INVALID_ARGUMENT"],
        "status": status,
        "sent_s": at_s,
        "done_s": at_s + took_ms / 1000.0,
        **more,
    }


def memory(at_s: float, mib: float | None, *, pid: int = 7) -> Record:
    told = {} if mib is None else {"rss_bytes": int(mib * MIB)}
    return {"kind": "memory", "at_s": at_s, "replica": "a", "pid": pid, **told}


def flat() -> list[Record]:
    """What its buffers need once comes at the beginning."""
    return [memory(float(at), 300.0 if at < 4 else 340.0) for at in range(1, 18)]


def judge(*more: Record, taken: list[Record] | None = None) -> Judgement:
    write = {
        "kind": "write",
        "event_id": "e1",
        "sequence": 1,
        "epoch": 1,
        "intended_s": 1.0,
        "sent_s": 1.0,
        "done_s": 1.1,
        "status": "OK",
    }
    read = {**write, "kind": "read", "replica": "a", "applied_sequence": 1}
    records = (
        {"kind": "steady", "at_s": 0.0},
        {"kind": "fault", "at_s": FAULT_S},
        {"kind": "rollback", "at_s": END_S},
        write,
        read,
        {"kind": "log", "sequence": 1, "epoch": 1, "event_id": "e1"},
        {"kind": "log_end", "head": 1},
        {"kind": "replica", "replica": "a", "serving": True, "applied_sequence": 1},
        *(flat() if taken is None else taken),
        *more,
    )
    return judge_hostile(History(records), HostileLimits())


def test_requests_that_are_refused_while_memory_stays_flat_hold() -> None:
    never = hostile(5.0, "DEADLINE_EXCEEDED", 2000.0, accepted=["DEADLINE_EXCEEDED", "UNAVAILABLE"])
    judgement = judge(hostile(3.0), hostile(4.0), never)
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    figures = judgement.figures
    assert (figures["hostile"], figures["kinds"], figures["refused"], figures["unexpected"]) == (3, 1, 3, 0)
    assert figures["growth_mib"] == 0.0
    # What waits for its deadline says nothing of how soon others are refused.
    assert figures["refused_p99_ms"] == 4.0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([hostile(3.0, "INTERNAL", detail="oh")], "ended with INTERNAL 1 times, at replica a first"),
        ([hostile(3.0, "OK")], "ended with OK 1 times"),
        ([hostile(3.0, took_ms=1500.0)], "took more than 1500 ms"),
        ([hostile(3.0), memory(8.0, None)], "replica a ended during the attack"),
        ([hostile(3.0), memory(8.0, 340.0, pid=9)], "replica a ended during the attack"),
    ],
)
def test_what_must_not_be_is_named(more: list[Record], sentence: str) -> None:
    judgement = judge(*more)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_memory_that_grows_and_grows_deviates() -> None:
    growing = [memory(float(at), 300.0 + 15.0 * at) for at in range(1, 18)]
    judgement = judge(hostile(3.0), taken=growing)
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.figures["growth_mib"] == 75.0
    assert "took 75 MiB more at the end of the attack" in judgement.reasons[0]


def test_without_looks_at_the_memory_or_an_attack_nothing_is_known() -> None:
    assert judge(hostile(3.0), taken=[]).verdict is Verdict.INCONCLUSIVE
    assert judge().verdict is Verdict.INCONCLUSIVE
    assert growth_mib([], 0.0, 1.0) is None
    assert crashes([memory(1.0, 1.0), memory(2.0, 1.0)]) == []
