"""Judging a candidate by what was measured beside the serving bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.deploy.judge import Limits, Role, Verdict, judge
from muster.deploy.windows import Arm, Times, Window, window_of
from muster.v1 import admin_pb2 as pb

LIMITS = Limits()


def times(count: int, bucket: int = 10) -> Times:
    return Times(tuple(count if number == bucket else 0 for number in range(64)))


def arm(answered: int, *, bucket: int = 10, worth: float = 1.0, failed: int = 0, refused: int = 0) -> Arm:
    return Arm(
        answered=answered,
        failed=failed,
        refused=refused,
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
    few = window(arm(1000), arm(20, bucket=40, worth=0.1, failed=9), agreement=0.0, compared=29)
    assert judge(role, few, LIMITS).verdict is Verdict.WAIT


def test_errors_that_the_serving_bundle_has_as_well_are_not_the_candidates() -> None:
    stormy = window(arm(700, refused=300), arm(350, refused=150))
    assert judge("canary", stormy, LIMITS).verdict is Verdict.GO


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
        canary=pb.TrialArm(refused=1, tiers=[pb.TierWork(tier="late", buckets=[0, 5])]),
        compared=2,
        agreement_total=1.0,
    )
    found = window_of(trial, 5)
    assert found.serving.latency == Times((3, 4))
    assert found.canary.work == {"late": Times((0, 5))}
    assert (found.canary.error_share, found.agreement, found.memory_growth_bytes) == (1.0, 0.5, 5)
