"""Whole tunes over a made-up deployment whose best settings are known."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from drills.experiment import Inconclusive
from drills.report.records import Records
from drills.tune.kept import ROW, Kept, Study
from drills.tune.outcome import cost
from drills.tune.profile import Profile, load_profile
from drills.tune.quiet import Quiet
from drills.tune.space import REPLICAS, Point, key
from drills.tune.study import Result, Tune, plan_points
from tests.drills.tune.surface import GOOD, LOUD, MEASURED, POOR, QUIET, MadeUp, invalid, truth

PROFILE = load_profile("standard")


def begun(start: Point, name: str = "one") -> Study:
    return Study(
        name=name,
        seed=1,
        start=dict(start),
        profile=PROFILE.model_dump(mode="json"),
        sections={},
        client={},
        bundle="",
        minutes=30.0,
    )


def tune(
    folder: Path, start: Point, runner: MadeUp, *, points: int = 8, seed: int = 1, **changes: Any
) -> Tune:
    study = begun(start)
    values: dict[str, Any] = {
        "runner": runner,
        "kept": Kept(Records(folder / "records.sqlite"), study, folder),
        "profile": PROFILE,
        "start": dict(start),
        "seed": seed,
        "points": points,
        "listen": lambda: QUIET,
        "sleep": lambda seconds: None,
        "tell": lambda sentence: None,
    }
    return Tune(**{**values, **changes})


def points_of(point: Point) -> float:
    outcome = next(MadeUp(noise=0.0).measure(point, [1]))
    return cost(replace(outcome, replicas=int(point[REPLICAS])), PROFILE.weights)


# Of the seeds 1 to 120 one (47, with this noise) ends without a recommendation; the last two are of searches
# in which most points are invalid.
@pytest.mark.parametrize(("seed", "noise"), [(1, 0.2), (2, 0.0), (3, 0.2), (35, 0.2), (110, 0.0)])
def test_a_poor_configuration_is_improved_and_nothing_invalid_is_recommended(
    tmp_path: Path, seed: int, noise: float
) -> None:
    found = tune(tmp_path, POOR, MadeUp(noise=noise, seed=seed), seed=seed).run(MEASURED)
    assert not invalid(found.point)
    assert found.decision.kept
    assert points_of(found.point) < 0.6 * points_of(POOR)
    assert found.decision.total.difference.less
    assert truth(found.point)["unavailable_s"] < 0.5 * truth(POOR)["unavailable_s"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_good_configuration_is_left_alone_or_made_better_but_never_worse(tmp_path: Path, seed: int) -> None:
    found = tune(tmp_path, GOOD, MadeUp(noise=0.1, seed=seed), points=6, seed=seed).run(MEASURED)
    assert not invalid(found.point)
    assert points_of(found.point) <= points_of(GOOD)
    if not found.decision.kept:
        assert key(found.point) == key(GOOD)
        assert found.decision.changes(found.start) == []


def test_a_start_that_breaks_something_is_left_for_one_that_does_not(tmp_path: Path) -> None:
    start = {**GOOD, "lease.ttl_ms": 200}
    found = tune(tmp_path, start, MadeUp()).run(MEASURED)
    assert "false takeover" in found.decision.why
    assert found.decision.kept and not invalid(found.point)


def test_the_number_of_replicas_is_the_smallest_that_survives(tmp_path: Path) -> None:
    start = {**GOOD, REPLICAS: 5}
    found = tune(tmp_path, start, MadeUp(enough=4)).run(MEASURED)
    assert found.point[REPLICAS] == 4
    assert "4 replicas held" in found.survival


def test_where_no_number_of_replicas_survives_nothing_is_recommended(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="up to 5 replicas did not hold"):
        tune(tmp_path, GOOD, MadeUp(enough=9)).run(MEASURED)


def test_both_sides_have_the_same_seeds_and_take_turns(tmp_path: Path) -> None:
    runner = MadeUp()
    found = tune(tmp_path, POOR, runner).run(MEASURED)
    compared = [
        (point == key(POOR), seed) for point, seed in runner.runs if seed > 100_000 and seed < 200_000
    ]
    starts = [seed for starting, seed in compared if starting]
    assert starts == [seed for starting, seed in compared if not starting]
    assert len(starts) == PROFILE.limits.runs_min == len(found.before) == len(found.after)
    turns = [starting for starting, _ in compared]
    assert turns[:8] == [True, True, False, False, False, False, True, True]


def test_a_tune_that_is_interrupted_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = tune(tmp_path / "whole", POOR, MadeUp()).run(MEASURED)
    runs = 0
    result: Result | None = None
    while result is None:
        runner = MadeUp(stop_after=7)
        try:
            result = tune(tmp_path / "parts", POOR, runner).run(MEASURED)
        except KeyboardInterrupt:
            runs += len(runner.runs)
            assert runs < 500
    assert key(result.point) == key(whole.point)
    assert [one.plain() for one in result.after] == [one.plain() for one in whole.after]


def test_a_disturbed_run_is_done_again_and_counts_for_nothing(tmp_path: Path) -> None:
    runner = MadeUp(disturbed=2)
    found = tune(tmp_path, POOR, runner).run(MEASURED)
    assert all(not one.disturbed for one in (*found.before, *found.after))
    rows = Records(tmp_path / "records.sqlite").of(ROW, limit=1000)
    assert sum(row.verdict == "inconclusive" for row in rows) == 2


def test_a_point_that_disturbs_every_run_on_a_quiet_machine_is_taken_as_it_is(tmp_path: Path) -> None:
    runner = MadeUp(disturbed=1_000)
    one = tune(tmp_path, POOR, runner)
    assert len(one.measure(POOR, [1, 2])) == 2


def test_a_machine_that_stays_noisy_is_told_with_figures_and_bounds(tmp_path: Path) -> None:
    waited: list[float] = []
    one = tune(tmp_path, POOR, MadeUp(), listen=lambda: LOUD, sleep=waited.append)
    with pytest.raises(
        Inconclusive, match=r"too noisy.*a durable write takes 500 ms \(p99\), the bound is 60"
    ):
        one.run(MEASURED)
    assert sum(waited) >= PROFILE.noise.patience_s


def test_a_moment_of_noise_is_waited_out(tmp_path: Path) -> None:
    heard = iter([LOUD, LOUD])
    one = tune(tmp_path, POOR, MadeUp(), listen=lambda: next(heard, QUIET))
    assert one.wait_for_quiet() == QUIET


def test_every_run_is_a_row_with_settings_seed_machine_noise_and_outcome(tmp_path: Path) -> None:
    one = tune(tmp_path, POOR, MadeUp())
    one.measure(POOR, [7])
    (row,) = Records(tmp_path / "records.sqlite").of(ROW)
    assert row.details["point"] == POOR and row.details["seed"] == 7
    assert row.machine["cores"] and row.noise["fsync_p99_ms"] == QUIET.fsync_p99_ms
    assert row.figures["unavailable_s"] == row.details["outcome"]["unavailable_s"]


def test_more_minutes_search_more_points_and_too_few_say_how_many_it_takes() -> None:
    few, _ = plan_points(20, 10.0, PROFILE)
    many, runs = plan_points(60, 10.0, PROFILE)
    assert few < many and runs > many
    with pytest.raises(Inconclusive, match="takes about"):
        plan_points(2, 10.0, PROFILE)


def test_quiet_is_asked_for_before_each_block_of_runs(tmp_path: Path) -> None:
    asked: list[Quiet] = []

    def listen() -> Quiet:
        asked.append(QUIET)
        return QUIET

    one = tune(tmp_path, POOR, MadeUp(), listen=listen)
    one.measure(POOR, [1, 2])
    one.measure(POOR, [1, 2, 3])
    assert len(asked) == 2


def test_a_profile_and_a_study_survive_their_files(tmp_path: Path) -> None:
    from drills.tune.kept import read_study

    study = begun(POOR)
    study.write(tmp_path)
    again = read_study(tmp_path)
    assert asdict(again) == asdict(study)
    assert Profile.model_validate(again.profile) == PROFILE
