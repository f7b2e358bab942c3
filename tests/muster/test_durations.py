"""Durations carry their unit, unless the caller says what a bare number means."""

from __future__ import annotations

import pytest

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
