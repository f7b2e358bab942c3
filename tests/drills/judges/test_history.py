from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.journal import History, Record
from drills.judges.history import check_epochs, check_sessions, check_writes


def write(number: int, sent_s: float, **fields: Any) -> Record:
    return {
        "kind": "write",
        "event_id": f"w{number}",
        "session": "s",
        "sent_s": sent_s,
        "done_s": sent_s + 0.1,
        "status": "OK",
        "sequence": number,
        "epoch": 1,
        "duplicates": 0,
        **fields,
    }


def read(sent_s: float, applied_sequence: int, session: str | None = "s") -> Record:
    return {
        "kind": "read",
        "session": session,
        "sent_s": sent_s,
        "done_s": sent_s + 0.1,
        "status": "OK",
        "applied_sequence": applied_sequence,
    }


def failed(number: int, outcome: str) -> Record:
    return write(number, 9.0, status="Overloaded", outcome=outcome)


def history(*calls: Record, log: str = "w1 w2 w3", head: int | None = None) -> History:
    """The calls, and a log of these events in epoch 1."""
    entries = [
        {"kind": "log", "sequence": sequence, "epoch": 1, "event_id": event_id}
        for sequence, event_id in enumerate(log.split(), start=1)
    ]
    end: Record = {"kind": "log_end", "head": len(entries) if head is None else head}
    return History((*calls, *entries, end))


def problems_of(given: History) -> list[str]:
    writes = check_writes(given)
    assert writes is not None
    return [*writes.problems(), *check_epochs(given), *check_sessions(given)]


GOOD = (write(1, 1.0), read(1.2, 1), write(2, 2.0), write(3, 3.0), read(4.0, 3))


@pytest.mark.parametrize(
    "calls",
    [
        GOOD,
        # Of calls that overlap nothing is demanded.
        (write(2, 1.0, done_s=5.0), write(1, 4.0, done_s=4.5), write(3, 6.0)),
        (*GOOD, read(3.05, 2)),
        # A reader that is in no session may be behind.
        (*GOOD, read(5.0, 0, session=None)),
        # Unknown outcomes may be in the log or not.
        (write(1, 1.0), failed(2, "unknown"), failed(7, "unknown")),
        # Refused, sent again, written.
        (failed(1, "not_written"), write(1, 10.0)),
        # It was there already from an earlier sending.
        (write(3, 1.0), write(1, 2.0, duplicates=1), write(2, 3.0, sequence=2, duplicates=1)),
    ],
)
def test_what_may_be_is_no_problem(calls: tuple[Record, ...]) -> None:
    assert problems_of(history(*calls)) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (history(write(4, 1.0)), "1 acknowledged writes are not in the log, first w4"),
        (history(log="w1 w2 w1"), "1 events are in the log twice, first w1"),
        (
            history(failed(2, "not_written")),
            "1 events are in the log though their writes ended as not written",
        ),
        (history(write(2, 1.0), write(1, 2.0)), "1 writes stand before one that was acknowledged before"),
        (history(write(1, 1.0, sequence=2)), "1 acknowledgements name a place where the event is not"),
        (
            history(write(1, 1.0, epoch=2), write(2, 2.0, epoch=1)),
            "though it was sent after epoch 2 had been",
        ),
        (history(write(2, 1.0), read(2.0, 1)), "session s had seen sequence 2 and then read at 1"),
        (history(read(1.0, 3), read(2.0, 2)), "session s had seen sequence 3 and then read at 2"),
        (history(read(1.0, 4, session=None)), "1 answers show more than the log holds, first sequence 4"),
    ],
)
def test_each_breach_is_told(given: History, sentence: str) -> None:
    problems = problems_of(given)
    assert any(sentence in problem for problem in problems), problems


def test_a_hole_and_a_clash_in_the_log_are_told() -> None:
    hole = {"kind": "log", "sequence": 6, "epoch": 1, "event_id": "x"}
    clash = {"kind": "log", "sequence": 2, "epoch": 1, "event_id": "y"}
    found = check_writes(History((*history().records, hole, clash)))
    assert found is not None
    assert found.gaps == 2


def test_nothing_is_said_of_writes_where_the_log_is_not_known() -> None:
    assert check_writes(History((write(1, 1.0),))) is None
    assert check_sessions(History((read(1.0, 99, session=None),))) == []


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.01, 2), st.integers(0, 3)), max_size=40),
    st.randoms(use_true_random=False),
)
def test_a_true_service_is_never_accused(calls: list[tuple[bool, float, int]], draw: Any) -> None:
    """Writes take effect in the moment of their sequence; each reader waits for what its session saw."""
    records: list[Record] = []
    now_s, head = 0.0, 0
    for writes, took_s, who in calls:
        session = f"s{who}"
        now_s += 0.01
        if writes:
            head += 1
            record = write(head, now_s, session=session, done_s=now_s + took_s)
        else:
            at_least = max(
                (
                    one["sequence"] if one["kind"] == "write" else one["applied_sequence"]
                    for one in records
                    if one["session"] == session and one["done_s"] < now_s
                ),
                default=0,
            )
            record = {**read(now_s, draw.randint(at_least, head), session), "done_s": now_s + took_s}
        records.append(record)
    draw.shuffle(records)
    assert problems_of(history(*records, log=" ".join(f"w{n + 1}" for n in range(head)))) == []
