"""The search: points drawn by Optuna, run a little, the better half run more, until one is left.

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): all points get one run, the better half of
them twice as many, and so on. The sampler (TPE, Bergstra et al. 2011) is told what each first run has cost,
so later points are drawn where earlier ones were cheap. Every run of one round has the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from drills.tune.outcome import Outcome, broken, mean_cost, parts
from drills.tune.profile import Limits, Weights
from drills.tune.space import BY_NAME, GROUPS, Point, group_of, key, sound

INVALID_POINTS = 100.0
"""What the sampler is told of a point that broke something: dearer than any that did not."""

Measure = Callable[[Point, Sequence[int]], Sequence[Outcome]]
"""Runs a point once for each seed."""


class Sampler:
    """Draws points within ranges, told what those before have cost. The same seed and the same costs draw the
    same points."""

    def __init__(self, start: Point, ranges: Mapping[str, tuple[float, float]], seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._start = start
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(round(low), round(high), log=True)
            if BY_NAME[name].whole
            else FloatDistribution(low, high, log=True)
            for name, (low, high) in ranges.items()
        }
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=False)
        self._study = optuna.create_study(sampler=sampler)
        self._asked: dict[str, optuna.Trial] = {}

    def draw(self) -> dict[str, float]:
        """The next point."""
        trial = self._study.ask(self._distributions)
        point = sound({**self._start, **trial.params})
        self._asked[key(point)] = trial
        return point

    def told(self, point: Point, points: float | None) -> None:
        """What a drawn point has cost; None: it broke something."""
        trial = self._asked.pop(key(point), None)
        if trial is not None:
            self._study.tell(trial, INVALID_POINTS if points is None else points)


@dataclass
class Standing:
    """A point and its runs so far."""

    point: dict[str, float]
    origin: str
    outcomes: list[Outcome] = field(default_factory=list)

    def broken(self, limits: Limits) -> list[str]:
        """What makes it invalid; empty: nothing so far."""
        return broken(self.outcomes, limits)


@dataclass(frozen=True)
class Found:
    """best: the last one left; None: every point broke something. tried: all, in the order of their coming.
    rounds: how many entered each.
    """

    best: Standing | None
    tried: tuple[Standing, ...]
    rounds: tuple[int, ...]


def rungs(points: int) -> list[tuple[int, int]]:
    """(points that enter, runs that each has had after it) of each round."""
    found, runs = [(points, 1)], 1
    while points > 1:
        points, runs = math.ceil(points / 2), runs * 2
        if points > 1:
            found.append((points, runs))
    return found


def runs_of(points: int) -> int:
    """Runs that a search over so many points takes, the combined one among them."""
    total, before = 0, 0
    for number, (entering, runs) in enumerate(rungs(points)):
        total += entering * (runs - before) + (1 if number == 1 else 0)
        before = runs
    return total + 1


def halve(
    given: Sequence[tuple[str, Point]],
    sampler: Sampler,
    points: int,
    measure: Measure,
    *,
    weights: Weights,
    limits: Limits,
    seed: int,
) -> Found:
    """Searches over the given points (with their origins) and drawn ones: `points` in all, up to twice as
    many where points broke something.

    After the first round the best group of settings of each kind is put together into one more point: groups
    show in different outcomes, so the best lease of one point may go with the best planner of another.
    """
    tried = [Standing(dict(point), origin) for origin, point in given]
    for standing in tried:
        standing.outcomes += measure(standing.point, [seed])
    later = rungs(points)[1:]
    wanted = later[0][0] if later else 1

    def too_few_valid() -> bool:
        return sum(not one.broken(limits) for one in tried) < wanted and len(tried) < 2 * points

    # Points that broke something leave later rounds empty: the runs go to further points instead.
    while len(tried) < points or too_few_valid():
        standing = Standing(sampler.draw(), "drawn")
        standing.outcomes += measure(standing.point, [seed])
        invalid = standing.broken(limits)
        sampler.told(standing.point, None if invalid else mean_cost(standing.outcomes, weights))
        tried.append(standing)
    left, entered = tried, [len(tried)]
    for number, (most, runs) in enumerate(later, 1):
        left = _better(left, weights, limits)[:most]
        together = _combined(left, weights) if number == 1 else None
        if together is not None and key(together.point) not in {key(one.point) for one in tried}:
            tried.append(together)
            left = [*left, together]
        for standing in left:
            more = range(seed + len(standing.outcomes), seed + runs)
            if not standing.broken(limits) and more:
                standing.outcomes += measure(standing.point, list(more))
        entered.append(len(left))
    left = _better(left, weights, limits)
    return Found(left[0] if left else None, tuple(tried), tuple(entered))


def _better(standings: Sequence[Standing], weights: Weights, limits: Limits) -> list[Standing]:
    """The valid ones, cheapest first."""
    valid = [one for one in standings if not one.broken(limits)]
    return sorted(valid, key=lambda one: mean_cost(one.outcomes, weights))


def _combined(standings: Sequence[Standing], weights: Weights) -> Standing | None:
    """The cheapest of each group of settings, in one point."""
    if len(standings) < 2:
        return None

    def of(standing: Standing, group: str) -> float:
        return fmean(parts(outcome, weights)[group] for outcome in standing.outcomes)

    point = dict(standings[0].point)
    for group in GROUPS:
        cheapest = min((of(one, group), number) for number, one in enumerate(standings))[1]
        point.update(group_of(standings[cheapest].point, group))
    return Standing(sound(point), "the best group of each kind together")
