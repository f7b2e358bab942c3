"""What two answers differ in, and the slider's scale."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.console.asking import DEADLINE_MS_MAX, DEADLINE_MS_MIN, compare, deadline_of, position_of

IDS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


def results(ids: str | list[str]) -> list[dict[str, Any]]:
    return [{"product_id": name, "title": name.upper()} for name in ids]


@given(IDS, IDS)
def test_every_product_of_both_answers_has_one_move(before: list[str], after: list[str]) -> None:
    moves = compare(results(before), results(after)).moves
    assert sorted(move.product_id for move in moves) == sorted(set(before) | set(after))
    for move in moves:
        assert move.before == (before.index(move.product_id) + 1 if move.product_id in before else None)
        assert move.after == (after.index(move.product_id) + 1 if move.product_id in after else None)


def test_moves_are_told_in_words() -> None:
    compared = compare(results("abc"), results("bad"))
    assert [move.told() for move in compared.moves] == [
        "would rise from place 2 to 1",
        "would fall from place 1 to 2",
        "would come in at place 3",
        "would leave place 3",
    ]
    assert compared.told() == "With a longer deadline 0 of 3 would keep their place, 1 would be new."
    assert compare(results("ab"), results("ab")).told() == (
        "A longer deadline would change nothing on this page."
    )


@pytest.mark.parametrize(("position", "deadline_ms"), [(0, 2), (0.5, 20), (1, 200), (-1, 2), (2, 200)])
def test_the_slider_is_logarithmic(position: float, deadline_ms: float) -> None:
    assert deadline_of(position) == deadline_ms


@given(st.floats(0, 1))
def test_a_place_on_the_slider_is_found_again(position: float) -> None:
    deadline_ms = deadline_of(position)
    assert DEADLINE_MS_MIN <= deadline_ms <= DEADLINE_MS_MAX
    assert abs(position_of(deadline_ms) - position) < 0.02
