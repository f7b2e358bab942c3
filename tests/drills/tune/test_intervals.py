"""Intervals of paired differences."""

from __future__ import annotations

import random

import pytest

from drills.tune.intervals import paired


def test_an_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    held, tries = 0, 300
    for seed in range(tries):
        draw = random.Random(seed)
        before = [draw.gauss(1.0, 0.3) for _ in range(10)]
        after = [one + draw.gauss(-0.2, 0.2) for one in before]
        found = paired(before, after, confidence=0.9)
        held += found.low <= -0.2 <= found.high  # type: ignore[operator]
    assert 0.85 * tries <= held <= 0.95 * tries


def test_what_pairs_share_does_not_hide_a_difference() -> None:
    draw = random.Random(1)
    before = [draw.gauss(10.0, 5.0) for _ in range(10)]
    after = [one - 0.2 + draw.gauss(0, 0.05) for one in before]
    assert paired(before, after, confidence=0.95).less
    assert paired(after, before, confidence=0.95).more


def test_too_few_pairs_bound_nothing_and_equal_ones_bound_all() -> None:
    few = paired([1.0, 2.0], [0.0, 1.0], confidence=0.95)
    assert few.mean == -1.0 and few.low is None and not few.less
    same = paired([1.0] * 5, [1.0] * 5, confidence=0.95)
    assert (same.low, same.high) == (0.0, 0.0) and not (same.less or same.more)
    less = paired([1.0] * 5, [0.5] * 5, confidence=0.95)
    assert less.less


@pytest.mark.parametrize("sides", [([], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_refused(sides: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="do not make pairs"):
        paired(*sides, confidence=0.95)
