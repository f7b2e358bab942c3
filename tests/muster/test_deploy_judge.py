"""Judging a candidate by what was measured beside the serving bundle."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.deploy.judge import Limits, Role, Verdict, judge, share_between
from muster.deploy.windows import Arm, Times, Window, window_of
from muster.v1 import admin_pb2 as pb

LIMITS = Limits()


def times(count: int, bucket: int = 10) -> Times:
    return Times(tuple(count if number == bucket else 0 for number in range(64)))


def arm(
    answered: int,
    *,
    bucket: int = 10,
    worth: float = 1.0,
    failed: int = 0,
    refused: int = 0,
    given_up: int = 0,
) -> Arm:
    return Arm(
        answered=answered,
        failed=failed,
        refused=refused,
        given_up=given_up,
        worth_total=worth * answered,
        latency=times(answered, bucket),
        work={"late": times(answered, bucket)},
    )


def window(serving: Arm, candidate: Arm, *, agreement: float = 0.9, compared: int = 500) -> Window:
    return Window(
        serving=serving,
        canary=candidate,
        shadow=candidate,
        compared=compared,
        agreement_total=agreement * compared,
        overlap_total=agreement * compared,
    )


roles = pytest.mark.parametrize("role", ["shadow", "canary"])


@roles
def test_a_candidate_like_the_serving_bundle_goes_on_once_enough_was_seen(role: Role) -> None:
    assert judge(role, window(arm(1000), arm(500)), LIMITS).verdict is Verdict.GO
    assert judge(role, window(arm(1000), arm(199)), LIMITS).verdict is Verdict.WAIT
    assert judge(role, window(arm(1000), arm(500), compared=29), LIMITS).verdict is Verdict.WAIT
    assert judge(role, Window(), LIMITS).verdict is Verdict.WAIT


@roles
@pytest.mark.parametrize(
    ("word", "bad"),
    [
        ("errors", window(arm(1000), arm(95, failed=5))),
        ("errors", window(arm(1000), arm(90, refused=10))),
        ("latency", window(arm(1000), arm(100, bucket=22))),
        # So far off shows in few: callers have stopped asking by the time that there are many.
        ("latency", window(arm(1000), arm(12, bucket=40))),
        ("given up", window(arm(1000), arm(0, given_up=12))),
        ("given up", window(arm(1000, given_up=50), arm(100, given_up=40))),
        ("quality", window(arm(1000), arm(100, worth=0.8))),
        ("agreement", window(arm(1000), arm(100), agreement=0.1)),
        ("memory", replace(window(arm(1000), arm(100)), memory_growth_bytes=2 << 30)),
    ],
)
def test_whatever_is_bad_is_rolled_back_and_named(role: Role, word: str, bad: Window) -> None:
    found = judge(role, bad, LIMITS)
    assert found.verdict is Verdict.ROLL_BACK
    assert [reason.split(":")[0] for reason in found.reasons] == [word]


@roles
def test_nothing_is_held_against_a_candidate_on_a_handful_of_requests(role: Role) -> None:
    few = window(arm(1000), arm(10, bucket=40, worth=0.1, failed=9, given_up=4), agreement=0.0, compared=29)
    assert judge(role, few, LIMITS).verdict is Verdict.WAIT


def test_errors_that_the_serving_bundle_has_as_well_are_not_the_candidates() -> None:
    stormy = window(arm(700, refused=300), arm(350, refused=150))
    assert judge("canary", stormy, LIMITS).verdict is Verdict.GO


def test_callers_that_hedge_away_from_both_bundles_alike_are_not_held_against_the_candidate() -> None:
    slow_replica = window(arm(600, given_up=400), arm(290, given_up=210))
    assert judge("canary", slow_replica, LIMITS).verdict is Verdict.GO


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_interval_of_a_share_holds_it_and_narrows_as_more_is_counted(some: int, others: int) -> None:
    low, high = share_between(some, some + others)
    assert 0.0 <= low <= high <= 1.0
    if some + others:
        assert low - 1e-12 <= some / (some + others) <= high + 1e-12
        narrower = share_between(10 * some, 10 * (some + others))
        assert narrower[1] - narrower[0] < high - low


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_interval_of_a_quantile_holds_the_true_one_as_often_as_it_says(share: float) -> None:
    draw = random.Random(7)
    truth = [0] * 64
    for _ in range(200_000):
        truth[min(63, int(draw.expovariate(0.1)))] += 1
    true_ms = Times(tuple(truth)).quantile_ms(share)
    held = 0
    for _ in range(400):
        drawn = [0] * 64
        for _ in range(150):
            drawn[min(63, int(draw.expovariate(0.1)))] += 1
        low, high = Times(tuple(drawn)).quantile_between_ms(share, 2.576)
        held += low <= true_ms <= high
    assert held >= 0.97 * 400


def test_too_few_times_bound_nothing() -> None:
    assert Times().quantile_between_ms(0.5, 2.576) == (-math.inf, math.inf)
    assert times(10).quantile_between_ms(0.5, 2.576) == (-math.inf, math.inf)
    low, high = times(11).quantile_between_ms(0.5, 2.576)
    assert low == high == times(1).quantile_ms(0.5)


def test_a_tier_that_only_one_bundle_used_is_not_compared() -> None:
    candidate = replace(arm(500), work={"cross_small": times(500, 30)})
    assert judge("shadow", window(arm(1000), candidate), LIMITS).verdict is Verdict.GO


arms = st.builds(
    arm,
    st.integers(0, 2000),
    bucket=st.integers(0, 63),
    worth=st.floats(0, 1),
    failed=st.integers(0, 200),
    refused=st.integers(0, 200),
    given_up=st.integers(0, 200),
)


@given(arms, st.sampled_from(["shadow", "canary"]))
def test_a_candidate_that_is_measured_exactly_as_the_serving_bundle_is_never_rolled_back(
    same: Arm, role: Role
) -> None:
    assert judge(role, window(same, same), LIMITS).verdict is not Verdict.ROLL_BACK


@given(arms, arms, st.floats(0, 1), st.integers(0, 2000), st.sampled_from(["shadow", "canary"]))
def test_a_worse_candidate_is_never_judged_better(
    serving: Arm, candidate: Arm, agreement: float, compared: int, role: Role
) -> None:
    before = judge(role, window(serving, candidate, agreement=agreement, compared=compared), LIMITS)
    if before.verdict is not Verdict.ROLL_BACK:
        return
    slower = Arm(
        answered=candidate.answered,
        failed=candidate.failed,
        refused=candidate.refused,
        given_up=candidate.given_up,
        worth_total=candidate.worth_total / 2,
        latency=Times((0, *candidate.latency.buckets[:-1])),
        work={tier: Times((0, *work.buckets[:-1])) for tier, work in candidate.work.items()},
    )
    if sum(slower.latency.buckets) < sum(candidate.latency.buckets):
        return
    after = judge(role, window(serving, slower, agreement=agreement / 2, compared=compared), LIMITS)
    assert after.verdict is Verdict.ROLL_BACK


def test_a_quantile_is_the_bound_that_enough_times_do_not_exceed() -> None:
    spread = Times((1, 1, 2) + (0,) * 61)
    assert spread.quantile_ms(0.25) == pytest.approx(0.05)
    assert spread.quantile_ms(0.5) == pytest.approx(0.05 * 1.25)
    assert spread.quantile_ms(1.0) == pytest.approx(0.05 * 1.25**2)
    with pytest.raises(ValueError, match="no times"):
        Times().quantile_ms(0.5)


def test_a_window_is_the_difference_of_two_readings_and_a_trial_that_began_anew_counts_whole() -> None:
    earlier, later = window(arm(100), arm(40), compared=30), window(arm(150), arm(60), compared=50)
    between = later.since(earlier)
    assert (between.serving.answered, between.canary.answered, between.compared) == (50, 20, 20)
    assert between.serving.work["late"].count == 50
    assert between.agreement == pytest.approx(0.9)
    assert earlier.since(later) == earlier


def test_a_trial_is_read_from_its_message() -> None:
    trial = pb.Trial(
        serving=pb.TrialArm(answered=7, latency_buckets=[3, 4], worth_total=3.5),
        canary=pb.TrialArm(refused=1, given_up=4, tiers=[pb.TierWork(tier="late", buckets=[0, 5])]),
        compared=2,
        agreement_total=1.0,
    )
    found = window_of(trial, 5)
    assert found.serving.latency == Times((3, 4))
    assert found.canary.work == {"late": Times((0, 5))}
    assert found.canary.given_up == 4
    assert (found.canary.error_share, found.agreement, found.memory_growth_bytes) == (1.0, 0.5, 5)
