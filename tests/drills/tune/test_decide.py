"""Decisions over made-up pairs of runs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.tune.decide import confirmed, decide
from drills.tune.outcome import Outcome
from drills.tune.profile import load_profile
from drills.tune.space import HEDGE, LEASE, RANKING, TTL, WORKERS
from tests.drills.tune.surface import GOOD, POOR

PROFILE = load_profile("standard")
RUNS = 10


def outcomes(
    draw: random.Random, *, away_s: float = 0.5, missed: float = 0.05, late: float = 0.02, broke: str = ""
) -> list[Outcome]:
    def noisy(value: float) -> float:
        return max(0.0, value * (1 + 0.2 * draw.gauss(0, 1)))

    return [
        Outcome(
            noisy(away_s),
            noisy(late),
            noisy(missed),
            noisy(0.02),
            0.01,
            3,
            (broke,) if broke and not number else (),
        )
        for number in range(RUNS)
    ]


def test_what_is_the_same_is_changed_in_at_most_as_many_tunes_as_stated() -> None:
    changed = 0
    tunes = 400
    for seed in range(tunes):
        draw = random.Random(seed)
        decision = decide(GOOD, POOR, outcomes(draw), outcomes(draw), PROFILE)
        changed += bool(decision.kept)
    assert changed <= (1 - PROFILE.limits.confidence) * tunes


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    broke=st.sampled_from(["1 events are in the log twice", "1 false takeover(s)"]),
)
def test_a_challenger_that_broke_something_once_is_never_recommended(seed: int, broke: str) -> None:
    draw = random.Random(seed)
    decision = decide(
        POOR, GOOD, outcomes(draw, away_s=3.0), outcomes(draw, away_s=0.1, broke=broke), PROFILE
    )
    assert decision.point == POOR and not decision.kept and decision.invalid == (broke,)


def test_only_the_groups_whose_own_points_are_fewer_are_kept() -> None:
    draw = random.Random(3)
    decision = decide(POOR, GOOD, outcomes(draw, away_s=2.0), outcomes(draw, away_s=0.3), PROFILE)
    assert decision.kept == (LEASE,)
    assert decision.point[TTL] == GOOD[TTL]
    assert (decision.point[WORKERS], decision.point[HEDGE]) == (POOR[WORKERS], POOR[HEDGE])


def test_a_better_group_does_not_carry_a_worse_one_along() -> None:
    draw = random.Random(4)
    decision = decide(
        POOR, GOOD, outcomes(draw, away_s=2.0, missed=0.01), outcomes(draw, away_s=0.3, missed=0.2), PROFILE
    )
    assert decision.kept == (LEASE,)
    assert decision.groups[RANKING].difference.more


def test_extra_load_above_its_bound_makes_a_challenger_invalid() -> None:
    draw = random.Random(5)
    heavy = [Outcome(0.1, 0.0, 0.0, 0.0, 0.2, 3) for _ in range(RUNS)]
    decision = decide(POOR, GOOD, outcomes(draw), heavy, PROFILE)
    assert not decision.kept
    assert "sent a second time" in decision.why


def test_a_challenger_that_is_the_start_changes_nothing() -> None:
    draw = random.Random(6)
    same = outcomes(draw)
    decision = decide(GOOD, GOOD, same, same, PROFILE)
    assert decision.why.startswith("no other point")
    assert not decision.changes(GOOD)


def test_a_part_of_a_challenger_that_does_not_repeat_is_not_recommended() -> None:
    draw = random.Random(7)
    first = decide(POOR, GOOD, outcomes(draw, away_s=2.0), outcomes(draw, away_s=0.3), PROFILE)
    again = decide(POOR, first.point, outcomes(draw), outcomes(draw), PROFILE)
    assert not confirmed(first, POOR, again).kept
    again = decide(POOR, first.point, outcomes(draw, away_s=2.0), outcomes(draw, away_s=0.3), PROFILE)
    assert confirmed(first, POOR, again).kept == (LEASE,)


@pytest.mark.parametrize("sides", [([], []), ([1], [])])
def test_without_pairs_nothing_can_be_decided(sides: tuple[Sequence[int], Sequence[int]]) -> None:
    draw = random.Random(8)
    runs = outcomes(draw)
    with pytest.raises(ValueError):
        decide(POOR, GOOD, [runs[n] for n in sides[0]], [runs[n] for n in sides[1]], PROFILE)
