"""The starting rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from drills.tune.rules import starting_rules
from drills.tune.space import BACKLOG, CHECK, HEDGE, TTL, WORKERS
from tests.drills.tune.surface import MEASURED, POOR

RANGES = {
    TTL: (200.0, 5000.0),
    CHECK: (20.0, 500.0),
    BACKLOG: (1.0, 100.0),
    HEDGE: (5.0, 200.0),
    WORKERS: (1.0, 2.0),
}


def ruled(**changes: float) -> dict[str, float]:
    measured = replace(MEASURED, **dict[str, Any](changes))
    return starting_rules(POOR, measured, RANGES, harmless_pause_ms=150.0, flood_deadline_ms=50.0).point


def test_a_lease_outlasts_three_slow_renewals_and_two_harmless_pauses() -> None:
    assert ruled()[TTL] == 300
    assert ruled(write_p999_ms=300.0)[TTL] == 900
    assert ruled(pause_ms=310.0)[TTL] == 650


def test_work_may_wait_for_what_is_left_of_a_deadline() -> None:
    assert ruled()[BACKLOG] == 44.0


def test_a_read_is_sent_again_after_the_healthy_p95() -> None:
    assert ruled()[HEDGE] == 12.0


def test_what_is_not_searched_is_left_as_it_is() -> None:
    found = starting_rules(POOR, MEASURED, {TTL: (200, 5000)}, harmless_pause_ms=150, flood_deadline_ms=50)
    assert set(found.reasons) == {TTL}
    assert found.point[HEDGE] == POOR[HEDGE]


def test_a_rule_beyond_its_range_says_so() -> None:
    measured = replace(MEASURED, write_p999_ms=9_000.0)
    found = starting_rules(POOR, measured, RANGES, harmless_pause_ms=150, flood_deadline_ms=50)
    assert found.point[TTL] == 5000
    assert "kept within 200 to 5000" in found.reasons[TTL]


@given(
    write_ms=st.floats(0.1, 5_000),
    pause_ms=st.floats(0, 5_000),
    overhead_ms=st.floats(0, 200),
    read_ms=st.floats(0, 500),
)
def test_whatever_was_measured_the_point_is_within_its_ranges(
    write_ms: float, pause_ms: float, overhead_ms: float, read_ms: float
) -> None:
    point = ruled(write_p999_ms=write_ms, pause_ms=pause_ms, overhead_p99_ms=overhead_ms, read_p95_ms=read_ms)
    assert all(low <= point[name] <= high for name, (low, high) in RANGES.items())
    assert point[CHECK] * 4 <= point[TTL]
