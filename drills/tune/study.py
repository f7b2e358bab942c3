"""A whole tune, over anything that can run a point: rules, search, replicas, comparison, confirmation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

from drills.experiment import Inconclusive
from drills.tune.decide import Decision, confirmed, decide
from drills.tune.kept import Kept, missing
from drills.tune.outcome import Outcome
from drills.tune.profile import Profile
from drills.tune.quiet import Quiet
from drills.tune.rules import Calibration, Ruled, starting_rules
from drills.tune.search import Found, Sampler, halve, runs_of
from drills.tune.space import REPLICAS, Point, key, searched_ranges

SEARCH_SEED, COMPARE_SEED, CONFIRM_SEED = 1_000, 100_000, 200_000
"""Apart, so that what decides was not seen by the search. Added to the tune's own seed."""

BLOCK = 2
"""Runs of one side before the other one has its turn: on one cluster, so that starting it counts less."""

POINTS = (4, 6, 8, 12, 16, 24, 32, 48)
DISTURBED_MAX = 3
"""Disturbed runs of a point in a row, on a machine that is quiet otherwise, are the point's own doing."""

SETUP_S = 8.0
"""Of a cluster, for each block of runs."""

SURVIVAL_S = 60.0


class Runner(Protocol):
    """Runs points."""

    def measure(self, point: Point, seeds: Sequence[int]) -> Generator[Outcome]:
        """Once for each seed, on one cluster."""
        ...

    def survives(self, point: Point, replicas: int, seed: int) -> tuple[bool, str]:
        """Whether so many replicas hold their drills, and why not."""
        ...


@dataclass(frozen=True)
class Result:
    """A tune that came to its end. point: what is recommended. found: by the search. before, after: runs of
    the starting and of the recommended configuration (of the challenger, where nothing is recommended).
    """

    start: dict[str, float]
    point: dict[str, float]
    challenger: dict[str, float]
    ruled: Ruled
    found: Found
    decision: Decision
    before: tuple[Outcome, ...]
    after: tuple[Outcome, ...]
    survival: str


def plan_points(minutes: float, run_s: float, profile: Profile) -> tuple[int, int]:
    """How many points are searched in the time, and how many runs that comes to.

    Raises: Inconclusive, saying how many minutes it takes at least.
    """
    each_s = run_s + SETUP_S / BLOCK

    def needed(points: int) -> tuple[int, float]:
        compared = 2 * profile.limits.runs_min
        runs = runs_of(points) + compared
        # The first runs of a search have a cluster of their own.
        return runs, runs * each_s + points * SETUP_S / BLOCK + SURVIVAL_S

    fitting = [points for points in POINTS if needed(points)[1] <= 60.0 * minutes]
    if not fitting:
        least = needed(POINTS[0])[1] / 60.0
        raise Inconclusive(
            f"{minutes:g} minutes are too few: a run takes {run_s:.0f} s here, and the smallest search with"
            f" {profile.limits.runs_min} runs of each side takes about {least:.0f} minutes: give it more by"
            " --resume --minutes"
        )
    return fitting[-1], needed(fitting[-1])[0]


@dataclass
class Tune:
    """One tune. listen: how noisy the machine is now. sleep: seconds. tell: a sentence for people; done: one
    more run is known.
    """

    runner: Runner
    kept: Kept
    profile: Profile
    start: dict[str, float]
    seed: int
    points: int
    listen: Callable[[], Quiet]
    sleep: Callable[[float], None]
    tell: Callable[[str], None]
    done: Callable[[], None] = lambda: None
    _stage: str = field(default="search", init=False)

    def run(self, measured: Calibration) -> Result:
        """All of it. Raises: Inconclusive where the machine became too noisy, or nothing could be told."""
        ranges = searched_ranges(self.profile.ranges, cross_encoder=measured.cross_encoder)
        ruled = starting_rules(
            self.start,
            measured,
            ranges,
            harmless_pause_ms=self.profile.harmless_pause_ms,
            flood_deadline_ms=self.profile.flood_deadline_ms,
        )
        given = [("the starting configuration", self.start)]
        if key(ruled.point) != key(self.start):
            given.append(("the starting rules", ruled.point))
        found = halve(
            given,
            Sampler(self.start, ranges, self.seed),
            self.points,
            self.measure,
            weights=self.profile.weights,
            limits=self.profile.limits,
            seed=self.seed + SEARCH_SEED,
        )
        if found.best is None:
            raise Inconclusive(
                "every point broke something, the starting configuration among them: "
                + "; ".join(found.tried[0].broken(self.profile.limits))
            )
        challenger, survival = self.with_replicas(found.best.point)
        self.tell(f"challenger: {found.best.origin}; {survival}")
        before, after = self.side_by_side(challenger, COMPARE_SEED)
        decision = decide(self.start, challenger, before, after, self.profile, seed=self.seed)
        if decision.kept and key(decision.point) != key(challenger):
            self.tell(f"only {', '.join(decision.kept)} made a difference: run again without the rest")
            before, after = self.side_by_side(decision.point, CONFIRM_SEED)
            again = decide(self.start, decision.point, before, after, self.profile, seed=self.seed)
            decision = confirmed(decision, self.start, again)
        return Result(
            self.start,
            decision.point,
            challenger,
            ruled,
            found,
            decision,
            tuple(before),
            tuple(after),
            survival,
        )

    def measure(self, point: Point, seeds: Sequence[int]) -> list[Outcome]:
        """One outcome for each seed: those that are kept, and the others measured now.

        Raises: Inconclusive where the machine stays too noisy.
        """
        disturbed = 0
        while left := list(missing(self.kept, point, seeds)):
            noise = self.wait_for_quiet()
            with closing(self.runner.measure(point, left)) as runs:
                for seed, outcome in zip(left, runs, strict=True):
                    if outcome.disturbed and disturbed >= DISTURBED_MAX:
                        outcome = replace(outcome, disturbed="")
                    self.kept.add(self._stage, point, seed, outcome, noise)
                    if outcome.disturbed:
                        disturbed += 1
                        self.tell(f"disturbed, to be run again: {outcome.disturbed}")
                        break
                    self.done()
        return [known for seed in seeds if (known := self.kept.outcome(point, seed)) is not None]

    def wait_for_quiet(self) -> Quiet:
        """How noisy the machine is, once it is quiet enough. Raises: Inconclusive where it does not become
        so."""
        bounds, waited_s, pause_s = self.profile.noise, 0.0, 2.0
        while True:
            noise = self.listen()
            loud = noise.too_loud(bounds)
            if not loud:
                return noise
            if waited_s >= bounds.patience_s:
                raise Inconclusive(
                    f"this machine is too noisy to recommend anything: {'; '.join(loud)}; go on with --resume"
                    " when it is quieter"
                )
            self.tell(f"too noisy, waiting: {loud[0]}")
            self.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, 15.0)

    def with_replicas(self, point: Point) -> tuple[dict[str, float], str]:
        """The point with the smallest number of replicas that holds double_fault and rolling_restart.

        Raises: Inconclusive where none does.
        """
        limits, why = self.profile.limits, ""
        for replicas in range(limits.replicas_min, limits.replicas_max + 1):
            told = self.kept.survived(point, replicas)
            if told is None:
                self.wait_for_quiet()
                told = self.runner.survives(point, replicas, self.seed)
                self.kept.add_survival(point, replicas, *told)
            held, why = told
            if held:
                return {**point, REPLICAS: replicas}, why
            self.tell(f"{replicas} replicas are not enough: {why}")
        raise Inconclusive(f"up to {limits.replicas_max} replicas did not hold the drills: {why}")

    def side_by_side(self, point: Point, base_seed: int) -> tuple[list[Outcome], list[Outcome]]:
        """Runs of the starting configuration and of the point with the same seeds, in turn; who goes first
        changes each time."""
        self._stage = "compare"
        seeds = [self.seed + base_seed + number for number in range(self.profile.limits.runs_min)]
        sides: dict[bool, list[Outcome]] = {False: [], True: []}
        for number in range(0, len(seeds), BLOCK):
            block = seeds[number : number + BLOCK]
            order = (False, True) if (number // BLOCK) % 2 == 0 else (True, False)
            for challenging in order:
                sides[challenging] += self.measure(point if challenging else self.start, block)
        return sides[False], sides[True]
