"""The budget a call has really left."""

from __future__ import annotations

from typing import Any

import pytest

from server.admission import DEADLINE_KEY, PRIORITY_KEY, Budget, SkewEstimator, told_priority

NOW_US = 1_700_000_000_000_000
DEFAULT_US = 200_000
MAX_US = 10_000_000


class Context:
    def __init__(
        self, remaining_s: float | None, absolute: object = None, peer: str = "ipv4:127.0.0.1:5"
    ) -> None:
        self._remaining_s = remaining_s
        self._metadata = () if absolute is None else ((DEADLINE_KEY, str(absolute)), ("other", "x"))
        self._peer = peer

    def time_remaining(self) -> float | None:
        return self._remaining_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return self._peer


def budget() -> Budget:
    return Budget(default_us=DEFAULT_US, max_us=MAX_US, now_unix_us=lambda: NOW_US)


@pytest.mark.parametrize(
    ("remaining_s", "absolute", "expected_us"),
    [
        (None, None, DEFAULT_US),
        (9.2e9, None, DEFAULT_US),
        (float("inf"), None, DEFAULT_US),
        (0.05, None, 50_000),
        (0.0, None, 0),
        (-0.1, None, -100_000),
        (3600.0, None, MAX_US),
        (None, NOW_US + 30_000, 30_000),
        (0.05, NOW_US + 30_000, 30_000),
        (0.05, NOW_US + 90_000, 50_000),
        (0.05, NOW_US - 10_000, -10_000),
        (0.05, "soon", 50_000),
        (None, "", DEFAULT_US),
    ],
)
def test_the_smaller_remainder_counts(remaining_s: float | None, absolute: object, expected_us: int) -> None:
    context: Any = Context(remaining_s, absolute)
    assert budget().remaining_us(context) == pytest.approx(expected_us, abs=1)


def test_a_call_may_have_its_own_default() -> None:
    context: Any = Context(None)
    assert budget().remaining_us(context, 5_000_000) == 5_000_000


def test_a_clock_that_is_ahead_is_learned_and_a_delay_is_still_seen() -> None:
    ahead_us, tested = 400_000, budget()

    def remaining(delay_us: int) -> int:
        deadline_us = NOW_US - ahead_us + 50_000 - delay_us
        context: Any = Context(0.05, deadline_us, peer="ipv4:10.0.0.9:4711")
        return tested.remaining_us(context)

    for _ in range(10):
        remaining(0)
    assert remaining(0) == pytest.approx(50_000, abs=1)
    assert remaining(30_000) == pytest.approx(20_000, abs=1)


def test_a_clock_that_is_behind_never_adds_time() -> None:
    tested = budget()
    for _ in range(20):
        context: Any = Context(0.05, NOW_US + 500_000, peer="ipv4:10.0.0.9:4711")
        assert tested.remaining_us(context) == pytest.approx(50_000, abs=1)


def test_connections_are_told_apart_and_forgotten_in_the_end() -> None:
    estimator = SkewEstimator()
    for _ in range(8):
        estimator.skew_us("one", 500)
    assert estimator.skew_us("one", 900) == 500
    assert estimator.skew_us("two", 900) == 0
    for number in range(5000):
        estimator.skew_us(f"peer {number}", 1)
    assert estimator.skew_us("one", 900) == 0


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), None),
        ((("other", "critical"),), None),
        (((PRIORITY_KEY, "sheddable"),), "sheddable"),
        (((PRIORITY_KEY, "no class"),), "no class"),
        (((PRIORITY_KEY, ""),), ""),
        (((PRIORITY_KEY, "sheddable"), (PRIORITY_KEY, "critical")), "sheddable"),
    ],
)
def test_the_priority_is_read_from_metadata_as_written(
    metadata: tuple[tuple[str, str], ...], expected: str | None
) -> None:
    class Told:
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return metadata

    context: Any = Told()
    assert told_priority(context) == expected
