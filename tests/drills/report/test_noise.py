"""What a machine disturbs is told in numbers, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.report import noise
from tests.drills.report.made import history, read, write


def test_the_base_is_what_was_answered_before_the_fault() -> None:
    records = [read(float(at_s), took_s=0.01) for at_s in range(10)]
    late = [read(20.0, took_s=0.9), read(5.5, took_s=0.5, status="Unavailable")]
    fault = {"kind": "fault", "at_s": 15.0, "fault": "kill"}
    assert noise.base_read_p99_ms(history(*records, *late, fault)) == pytest.approx(10.0)
    assert noise.base_read_p99_ms(history(*records, *late)) == pytest.approx(900.0)
    assert noise.base_read_p99_ms(history()) is None


def test_the_generators_own_lateness_counts_reads_and_writes() -> None:
    assert noise.stall_p99_ms(history(read(1.0), write(1.0, 1))) == pytest.approx(2.0)
    assert noise.stall_p99_ms(history()) is None


def test_durable_writes_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    assert noise.fsync_p99_ms(tmp_path, clock=lambda: next(ticks) / 1000.0) == 1.0
    assert list(tmp_path.iterdir()) == []
    assert noise.fsync_p99_ms(tmp_path / "absent") is None


def test_the_kernels_pressure_is_read_as_a_share(tmp_path: Path) -> None:
    path = tmp_path / "cpu"
    path.write_text(
        "some avg10=3.10 avg60=12.34 avg300=1.00 total=5\nfull avg10=0 avg60=0 avg300=0 total=0\n"
    )
    assert noise.cpu_pressure(path) == 0.1234
    path.write_text("nothing of the kind\n")
    assert noise.cpu_pressure(path) is None
    assert noise.cpu_pressure(tmp_path / "absent") is None
