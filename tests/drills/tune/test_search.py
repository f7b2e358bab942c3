"""The search over a made-up deployment."""

from __future__ import annotations

from collections.abc import Sequence

from drills.tune.outcome import Outcome
from drills.tune.profile import load_profile
from drills.tune.search import Found, Sampler, halve, rungs, runs_of
from drills.tune.space import BACKLOG, CHECK, HEDGE, TTL, Point, key
from tests.drills.tune.surface import POOR, MadeUp, invalid

PROFILE = load_profile("standard")
RANGES = {TTL: (200.0, 5000.0), CHECK: (20.0, 500.0), BACKLOG: (1.0, 100.0), HEDGE: (5.0, 200.0)}


def search(points: int, seed: int = 1, start: Point = POOR) -> tuple[Found, MadeUp]:
    runner = MadeUp(noise=0.05, seed=seed)

    def measure(point: Point, seeds: Sequence[int]) -> list[Outcome]:
        return list(runner.measure(point, seeds))

    found = halve(
        [("the starting configuration", start)],
        Sampler(start, RANGES, seed),
        points,
        measure,
        weights=PROFILE.weights,
        limits=PROFILE.limits,
        seed=100,
    )
    return found, runner


def test_each_round_halves_the_points_and_doubles_their_runs() -> None:
    assert rungs(8) == [(8, 1), (4, 2), (2, 4)]
    assert rungs(1) == [(1, 1)]


def test_the_runs_foretold_are_about_those_done() -> None:
    for points in (4, 8, 16):
        found, runner = search(points)
        assert len(runner.runs) <= runs_of(points) + 4
        assert len(runner.runs) >= runs_of(points) * 0.6
        assert len(found.tried) <= points + 1


def test_the_best_is_valid_though_invalid_points_are_cheaper() -> None:
    for seed in range(3):
        found, _ = search(12, seed)
        assert found.best is not None and not invalid(found.best.point)
        for standing in found.tried:
            if standing.broken(PROFILE.limits):
                assert len(standing.outcomes) == 1, "what broke something is not run again"


def test_where_everything_breaks_something_there_is_no_best() -> None:
    def measure(point: Point, seeds: Sequence[int]) -> list[Outcome]:
        return [Outcome(0.1, 0, 0, 0, 0, 3, ("1 events are in the log twice",)) for _ in seeds]

    found = halve(
        [("the starting configuration", POOR)],
        Sampler(POOR, RANGES, 1),
        4,
        measure,
        weights=PROFILE.weights,
        limits=PROFILE.limits,
        seed=1,
    )
    assert found.best is None


def test_the_same_seed_and_costs_draw_the_same_points() -> None:
    first, second = (search(8, seed=4)[0] for _ in range(2))
    assert [key(one.point) for one in first.tried] == [key(one.point) for one in second.tried]
    other, _ = search(8, seed=5)
    assert [key(one.point) for one in other.tried] != [key(one.point) for one in first.tried]


def test_all_points_of_a_round_have_the_same_seeds() -> None:
    _, runner = search(8)
    seeds: dict[str, list[int]] = {}
    for point, seed in runner.runs:
        seeds.setdefault(point, []).append(seed)
    assert all(found == list(range(100, 100 + len(found))) for found in seeds.values())
