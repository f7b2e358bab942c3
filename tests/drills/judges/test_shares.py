"""Counted shares beside promised ones."""

from __future__ import annotations

import random

import pytest

from drills.judges.shares import surely_fewer


@pytest.mark.parametrize(
    ("good", "of", "fewer"),
    [
        (242, 242, False),
        (239, 242, False),  # three late where 2.4 are allowed for
        (236, 242, True),
        (0, 1, True),
        (1, 1, False),
        (0, 0, False),
        (9_850, 10_000, True),
        (9_890, 10_000, False),
    ],
)
def test_few_late_ones_in_a_short_run_tell_nothing_and_many_do(good: int, of: int, fewer: bool) -> None:
    assert surely_fewer(good, of, 0.99) is fewer


def test_a_promise_that_is_just_kept_is_seldom_called_broken() -> None:
    draw = random.Random(7)
    runs = [sum(draw.random() < 0.99 for _ in range(250)) for _ in range(2_000)]
    assert sum(surely_fewer(good, 250, 0.99) for good in runs) <= 0.06 * len(runs)
    broken = [sum(draw.random() < 0.95 for _ in range(250)) for _ in range(500)]
    assert sum(surely_fewer(good, 250, 0.99) for good in broken) >= 0.9 * len(broken)
