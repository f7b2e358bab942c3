"""Schedules stay within their limits, come back from their files, and get as small as what fails."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.schedule import (
    KILL,
    KINDS,
    PRIMARY,
    SLOW,
    STANDBY,
    STOP,
    Limits,
    Schedule,
    ScheduleError,
    Step,
    draw,
    most_at_once,
    shrink,
)

limits = st.builds(
    Limits,
    kinds=st.sets(st.sampled_from(KINDS), min_size=1).map(lambda kinds: tuple(sorted(kinds))),
    steps_max=st.integers(1, 12),
    at_once_max=st.integers(1, 3),
    length_s=st.floats(3.0, 30.0),
)


@given(st.integers(0, 10_000), limits)
def test_what_is_drawn_keeps_to_its_limits_and_is_the_same_for_the_same_seed(seed: int, of: Limits) -> None:
    schedule = draw(seed, of)
    assert schedule == draw(seed, of)
    assert 1 <= len(schedule.steps) <= of.steps_max
    assert most_at_once(list(schedule.steps)) <= of.at_once_max
    assert list(schedule.steps) == sorted(schedule.steps, key=lambda step: step.at_s)
    for step in schedule.steps:
        assert step.kind in of.kinds
        assert of.lasts_s[0] - 0.01 <= step.lasts_s <= of.lasts_s[1] + 0.01
        assert 0 <= step.at_s <= step.at_s + step.lasts_s <= of.length_s + 0.02


def test_seeds_reach_every_kind_of_fault_and_either_role() -> None:
    steps = [step for seed in range(50) for step in draw(seed, Limits()).steps]
    assert {step.kind for step in steps} == set(KINDS)
    assert {step.whose for step in steps} == {PRIMARY, STANDBY}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ("melt",)},
        {"kinds": ()},
        {"steps_max": 0},
        {"at_once_max": 0},
        {"lasts_s": (2.0, 1.0)},
        {"length_s": 1.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ScheduleError):
        Limits(**wrong)  # type: ignore[arg-type]


@given(st.integers(0, 10_000))
def test_a_file_brings_a_schedule_back(seed: int) -> None:
    schedule = draw(seed, Limits())
    assert Schedule.from_json(schedule.to_json(reasons=["a write was lost"])) == schedule


GOOD = {"at_s": 1.0, "kind": KILL, "whose": PRIMARY, "lasts_s": 1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 9}, "schema"),
        ({"seed": "1"}, "seed"),
        ({"steps": {}}, "steps"),
        ({"steps": [{**GOOD, "kind": "melt"}]}, "melt"),
        ({"steps": [{**GOOD, "whose": "everybody"}]}, "everybody"),
        ({"steps": [{**GOOD, "lasts_s": -1}]}, "seconds"),
        ({"steps": [{**GOOD, "at_s": True}]}, "seconds"),
        ({"steps": [{**GOOD, "at_s": 1e9}]}, "seconds"),
        ({"steps": [{"at_s": 1.0}]}, "a step has"),
        ({"steps": [3]}, "a step has"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused_by_what_is_wrong(
    change: dict[str, object], words: str
) -> None:
    value = {"schema_version": 1, "seed": 1, "steps": [GOOD], **change}
    with pytest.raises(ScheduleError, match=words):
        Schedule.from_json(json.dumps(value))


@given(st.text(max_size=60))
def test_text_that_is_no_schedule_is_never_another_error(text: str) -> None:
    try:
        Schedule.from_json(text)
    except ScheduleError:
        return
    pytest.fail("it was taken")


CULPRITS = st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True)


@given(CULPRITS)
def test_only_the_faults_that_matter_are_left(culprits: list[int]) -> None:
    steps = tuple(Step(float(number), STOP, PRIMARY, 2.0) for number in range(12))
    needed = {steps[number].at_s for number in culprits}
    calls = 0

    def fails(schedule: Schedule) -> bool:
        nonlocal calls
        calls += 1
        return needed <= {step.at_s for step in schedule.steps if step.lasts_s >= 0.5}

    small = shrink(Schedule(7, steps), fails, tries=500)
    assert {step.at_s for step in small.steps} == needed
    assert all(step.lasts_s == 1.0 for step in small.steps)
    assert small.seed == 7
    assert calls <= 500


def test_no_more_is_tried_than_allowed_and_what_does_not_fail_again_stays() -> None:
    schedule = draw(3, Limits(steps_max=8))
    calls = 0

    def never(_: Schedule) -> bool:
        nonlocal calls
        calls += 1
        return False

    assert shrink(schedule, never, tries=5) == schedule
    assert calls <= 5
    assert (
        shrink(Schedule(1, (Step(0.0, SLOW, STANDBY, 0.1),)), lambda _: True, tries=9).steps[0].lasts_s == 0.1
    )
