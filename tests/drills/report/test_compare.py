"""Two runs side by side: a difference is claimed where it is more than chance."""

from __future__ import annotations

import random

import pytest

from drills.report.compare import compare, single_figures
from tests.drills.report.made import run


def with_each(values: list[float], **changes: object) -> object:
    return run(details={"each": [{"rto_ms": value, "verdict": "held"} for value in values]}, **changes)


def test_a_shift_beyond_the_spread_is_more_than_chance_and_one_within_it_is_not() -> None:
    draw = random.Random(5)
    slow = [draw.gauss(100, 5) for _ in range(20)]
    fast = [draw.gauss(60, 5) for _ in range(20)]
    same = [draw.gauss(100, 5) for _ in range(20)]
    (shifted,) = compare(with_each(slow), with_each(fast))  # type: ignore[arg-type]
    assert shifted.apart
    assert shifted.low is not None and shifted.high is not None
    assert shifted.low < shifted.b - shifted.a < shifted.high < 0
    (equal,) = compare(with_each(slow), with_each(same))  # type: ignore[arg-type]
    assert not equal.apart


def test_few_single_runs_bound_nothing() -> None:
    (found,) = compare(with_each([1.0, 2.0]), with_each([100.0] * 9))  # type: ignore[arg-type]
    assert (found.low, found.high, found.apart, found.runs) == (None, None, False, (2, 9))


def test_a_drill_that_is_one_run_is_compared_by_its_own_figures() -> None:
    assert single_figures(run(details={}, figures={"share": 0.5, "held": True, "tiers": {}})) == {
        "share": [0.5]
    }


def test_only_runs_of_one_drill_compare() -> None:
    with pytest.raises(ValueError, match="only runs of one drill"):
        compare(run(), run("hang"))
