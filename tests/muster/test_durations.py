"""Durations carry their unit, unless the caller says what a bare number means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.durations import parse_duration_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"), [("50ms", 50.0), ("0.2s", 200.0), (" 250 us ", 0.25), ("1m", 60_000.0)]
)
def test_a_unit_says_what_a_number_means(text: str, expected_ms: float) -> None:
    assert parse_duration_ms(text) == pytest.approx(expected_ms)
    assert parse_duration_ms(text, bare_unit="s") == pytest.approx(expected_ms)


def test_a_bare_number_has_the_unit_that_the_caller_names_or_none() -> None:
    assert parse_duration_ms("50", bare_unit="ms") == 50.0
    with pytest.raises(ValueError, match="write it with its unit, like 50ms"):
        parse_duration_ms("50")


@pytest.mark.parametrize("text", ["", "ms", "-5", "0", "0ms", "1e3", "50 h", "nan", "\u0665"])
def test_what_is_no_duration_is_refused_with_and_without_a_bare_unit(text: str) -> None:
    for bare_unit in ("", "ms"):
        with pytest.raises(ValueError, match="is not a duration above 0"):
            parse_duration_ms(text, bare_unit=bare_unit)


@given(
    text=st.text(max_size=20) | st.text("0123456789.mus e+-_", max_size=12),
    bare_unit=st.sampled_from(["", "ms"]),
)
def test_any_text_is_a_duration_above_0_or_refused(text: str, bare_unit: str) -> None:
    try:
        duration_ms = parse_duration_ms(text, bare_unit=bare_unit)
    except ValueError as refused:
        assert "is not a duration above 0" in str(refused)
    else:
        assert 0 < duration_ms < math.inf


@given(
    number=st.integers(1, 999_999_999),
    unit=st.sampled_from([("us", 0.001), ("ms", 1.0), ("s", 1e3), ("m", 6e4)]),
)
def test_a_number_with_its_unit_is_read_back(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration_ms(f"{number}{unit[0]}") == pytest.approx(number * unit[1])
