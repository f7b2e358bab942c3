"""One run in the figures that all drills share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drills.report.summary import summarise, telling_history
from tests.drills.report.made import history, read, write

FAULT = {"kind": "fault", "at_s": 10.0, "fault": "kill"}


def log(*sequences: int, epoch: int = 1) -> list[dict[str, object]]:
    events = [
        {"kind": "log", "at_s": 30.0, "sequence": one, "epoch": epoch, "event_id": f"e-{one}"}
        for one in sequences
    ]
    return [*events, {"kind": "log_end", "at_s": 30.0, "head": max(sequences, default=0)}]


def test_what_callers_got_is_told_before_and_from_the_fault_on() -> None:
    found = summarise(
        history(
            *(read(float(at_s), ndcg=0.8) for at_s in range(10)),
            FAULT,
            read(11.0, ndcg=0.4),
            read(12.0, took_s=0.2, ndcg=0.4),
            read(13.0, status="Unavailable"),
            read(14.0, ndcg=0.4),
        )
    )
    assert (found.in_time_share_before, found.in_time_share) == (1.0, 0.5)
    assert found.quality_kept == pytest.approx(0.5)
    assert (found.reads, found.read_errors) == (14, 1)
    assert found.rto_ms is None
    assert found.writes_lost is None


def test_recovery_and_loss_come_from_writes_and_the_log() -> None:
    records = [write(1.0, 1), FAULT, write(10.5, 2, epoch=2), write(11.0, 3, epoch=2)]
    found = summarise(history(*records, *log(1, 2), deadline_ms=None))
    assert found.rto_ms == pytest.approx(510.0)
    assert found.writes_lost == 1
    assert summarise(history(*records)).writes_lost is None


def test_nothing_at_all_is_nothing_measured() -> None:
    found = summarise(history())
    assert (found.in_time_share, found.quality_kept, found.reads) == (None, None, 0)


def test_the_run_that_did_not_hold_tells_most_else_the_last(tmp_path: Path) -> None:
    for number in range(1, 4):
        records = [{"kind": "run", "at_s": 0.0, "number": number}]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"run-{number:04d}.jsonl").write_text(lines)

    def number(each: list[dict[str, object]]) -> object:
        found = telling_history(tmp_path, each)
        assert found is not None
        return found.records[0]["number"]

    assert number([{"verdict": "held"}, {"verdict": "deviated"}, {"verdict": "deviated"}]) == 2
    assert number([{"verdict": "held"}] * 3) == 3
    assert number([]) == 3
    (tmp_path / "run-0003.jsonl").write_text("{broken\n")
    assert telling_history(tmp_path, []) is None
    assert telling_history(tmp_path / "absent", []) is None
