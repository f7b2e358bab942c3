"""Every pair has a place in a shape that holds it, and shapes are few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gpu.buckets import ROWS, Buckets

LONGEST = 83


@given(st.lists(st.integers(1, LONGEST), max_size=400))
def test_blocks_hold_every_pair_once_longest_first(lengths: list[int]) -> None:
    buckets = Buckets.up_to(LONGEST)
    rest = sorted(lengths, reverse=True)
    for shape, pairs in buckets.blocks(buckets.count(lengths)):
        members, rest = rest[:pairs], rest[pairs:]
        assert len(members) == pairs
        assert members[0] <= shape.length
        # No shorter shape would have held the longest, and no smaller one as many.
        assert all(length < members[0] for length in buckets.lengths if length < shape.length)
        assert shape.rows == min(rows for rows in ROWS if rows >= pairs)
        assert shape in set(buckets.shapes())
    assert rest == []


def test_a_model_is_never_asked_for_more_positions_than_the_longest_pair_has() -> None:
    assert Buckets.up_to(LONGEST).lengths == (16, 24, 32, 48, 64, 83)
    assert Buckets.up_to(16).lengths == (16,)
    assert Buckets.up_to(5).lengths == (5,)


def test_a_pair_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="a pair of 84 tokens; the longest expected one has 83"):
        Buckets.up_to(LONGEST).count([3, 84])
