"""Small groups are hidden, and a hidden one cannot be worked out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.privacy.counts import suppressed


def test_small_groups_are_hidden_and_empty_ones_shown() -> None:
    assert suppressed({"a": 10, "b": 9, "c": 0, "d": 1}) == {"a": 10, "b": None, "c": 0, "d": None}


def test_one_hidden_group_hides_the_smallest_other_one() -> None:
    assert suppressed({"a": 100, "b": 30, "c": 3}) == {"a": 100, "b": None, "c": None}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 40), max_size=8), st.integers(2, 20))
def test_nothing_small_is_shown_and_a_total_never_gives_one_away(counts: dict[str, int], least: int) -> None:
    shown = suppressed(counts, least=least)
    assert set(shown) == set(counts)
    assert all(value is None or value == 0 or value >= least for value in shown.values())
    assert all(value is None or value == counts[name] for name, value in shown.items())
    hidden = [name for name, value in shown.items() if value is None]
    # With one alone, total less the others would tell it; unless it is all there is.
    assert len(hidden) != 1 or all(not counts[name] for name in counts if name not in hidden)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="least"):
        suppressed({}, least=1)
    with pytest.raises(ValueError, match="below 0"):
        suppressed({"a": -1})
