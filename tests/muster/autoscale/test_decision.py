"""When replicas come and go, as pure decisions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.autoscale.decision import ScalePolicy, ScaleState, decide

POLICY = ScalePolicy(replicas_min=0, replicas_max=4, out_after_s=1.0, in_after_s=10.0, cooldown_s=3.0)
STEP_S = 0.25


def course(
    loads: list[float | None], policy: ScalePolicy = POLICY, start: int = 0, step_s: float = STEP_S
) -> list[int]:
    """Replicas after each look, one look a step."""
    state, replicas, found = ScaleState(), start, []
    for number, load in enumerate(loads):
        decision = decide(policy, state, now_s=number * step_s, replicas=replicas, units=load)
        state, replicas = decision.state, decision.wanted
        found.append(replicas)
    return found


def changes(counts: list[int], start: int) -> list[int]:
    """Numbers of the looks at which the count changed."""
    return [number for number, (a, b) in enumerate(zip([start, *counts], counts, strict=False)) if a != b]


def test_a_lasting_load_adds_one_after_the_other_up_to_the_most() -> None:
    counts = course([1.0] * 200)
    assert counts[3] == 0 and counts[4] == 1  # after one second above
    assert counts[-1] == 4 and sorted(counts) == counts
    spacing = changes(counts, 0)
    assert all(later - sooner >= 3.0 / STEP_S for sooner, later in pairwise(spacing))


def test_quiet_takes_them_away_slowly_down_to_the_least() -> None:
    counts = course([0.0] * 400, ScalePolicy(replicas_min=1, replicas_max=4, in_after_s=10.0), start=4)
    assert counts[39] == 4 and counts[40] == 3
    assert counts[-1] == 1 and sorted(counts, reverse=True) == counts


def test_between_the_limits_nothing_changes() -> None:
    assert set(course([0.1, 0.29, 0.06] * 300, start=2)) == {2}


def test_peaks_that_do_not_last_change_nothing() -> None:
    assert set(course(([5.0] * 3 + [0.1]) * 200, start=2)) == {2}


def test_silence_is_no_sign_of_quiet() -> None:
    assert set(course([None] * 400, start=3)) == {3}
    assert set(course(([0.0] * 20 + [None]) * 20, start=3)) == {3}


def test_too_few_are_mended_at_once_and_too_many_one_by_one() -> None:
    policy = ScalePolicy(replicas_min=2, replicas_max=3)
    assert decide(policy, ScaleState(), now_s=0.0, replicas=0, units=None).wanted == 2
    assert decide(policy, ScaleState(), now_s=0.0, replicas=5, units=9.0).wanted == 4


@pytest.mark.parametrize(
    "policy",
    [
        ScalePolicy(replicas_min=3, replicas_max=2),
        ScalePolicy(out_above=0.1, in_below=0.1),
        ScalePolicy(cooldown_s=-1.0),
        ScalePolicy(out_after_s=9.0, in_after_s=1.0),
    ],
)
def test_policies_that_cannot_be_meant_are_told(policy: ScalePolicy) -> None:
    assert list(policy.problems())


loads = st.lists(st.one_of(st.none(), st.floats(0.0, 10.0)), min_size=1, max_size=300)
policies = st.builds(
    ScalePolicy,
    replicas_min=st.integers(0, 2),
    replicas_max=st.integers(2, 6),
    in_below=st.floats(0.0, 0.2),
    out_above=st.floats(0.21, 2.0),
    out_after_s=st.floats(0.0, 3.0),
    in_after_s=st.floats(3.0, 20.0),
    cooldown_s=st.floats(0.0, 10.0),
)


@given(loads=loads, policy=policies, start=st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_whatever_the_load_does_the_reaction_is_bounded(
    loads: list[float | None], policy: ScalePolicy, start: int
) -> None:
    assert not list(policy.problems())
    counts = course(loads, policy, start)
    last, moved = start, False
    for count in counts:
        assert abs(count - last) <= 1 or (last < policy.replicas_min and count == policy.replicas_min)
        # Once within its bounds it stays there.
        moved = moved or policy.replicas_min <= count <= policy.replicas_max
        assert not moved or policy.replicas_min <= count <= policy.replicas_max
        last = count
    inside = [
        number
        for number in changes(counts, start)
        if number and policy.replicas_min <= counts[number - 1] <= policy.replicas_max
    ]
    for sooner, later in pairwise(inside):
        assert (later - sooner) * STEP_S >= policy.cooldown_s - 1e-9


@given(loads=loads, policy=policies)
@settings(max_examples=150, deadline=None)
def test_a_replica_that_was_added_stays_for_a_while(loads: list[float | None], policy: ScalePolicy) -> None:
    counts = course(loads, policy, policy.replicas_min)
    where = changes(counts, policy.replicas_min)
    steps = [(number, counts[number] - ([policy.replicas_min, *counts])[number]) for number in where]
    for (sooner, up), (later, down) in pairwise(steps):
        if up > 0 > down:
            assert (later - sooner) * STEP_S >= policy.in_after_s - 1e-9


@given(
    noise=st.lists(st.floats(-1.0, 1.0), min_size=200, max_size=400),
    policy=policies,
    start=st.integers(2, 2),
)
@settings(max_examples=100, deadline=None)
def test_noise_within_the_band_never_makes_it_flap(
    noise: list[float], policy: ScalePolicy, start: int
) -> None:
    middle = (policy.out_above + policy.in_below) / 2
    half = (policy.out_above - policy.in_below) / 2
    assert set(course([middle + half * 0.999 * one for one in noise], policy, start)) == {start}
