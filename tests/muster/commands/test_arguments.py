"""What the commands take."""

from __future__ import annotations

import contextlib

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from muster.commands.arguments import parse_duration_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("50ms", 50.0), ("2s", 2000.0), ("1.5s", 1500.0), ("250us", 0.25), ("1m", 60000.0)],
)
def test_durations_carry_their_unit(text: str, expected_ms: float) -> None:
    assert parse_duration_ms(text) == pytest.approx(expected_ms)


@pytest.mark.parametrize("text", ["50", "", "ms", "-5ms", "0s", "1e3ms", "50 h", "\u0665ms", "nan", "1.2.3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="50ms"):
        parse_duration_ms(text)


@given(st.text(max_size=20))
def test_any_text_is_a_positive_duration_or_refused(text: str) -> None:
    with contextlib.suppress(typer.BadParameter):
        assert parse_duration_ms(text) > 0
