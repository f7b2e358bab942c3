"""Faults at random, in combination, within declared limits: `muster drill explore --seed 1 --minutes 10`.

    python -m drills.explore --seed 1 --minutes 10 --json
    python -m drills.explore --replay run/drills/explore-TIME/failing-7.json

Hypothesis: whatever combination of dead, hanging, unreachable and slow replicas there is, as long as one is
sound: no acknowledged write is lost or doubled, epochs only rise, no session reads backwards, reads are
answered, and writes are back within five seconds of the end.

Each schedule is drawn from a seed (the first is --seed) and done to replicas under load. One that deviates is
made smaller, on a fresh cluster, as long as it still does, and written to a file that `--replay` takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Inconclusive, Judgement, Probe, Verdict, worst
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    all_serve_reads,
    check_replicas,
    load_options,
    one_primary,
    rehearse_on_cluster,
    setup_of,
    to_replica,
)
from drills.faults.combined import Combined
from drills.judges.explored import ExploreLimits, judge_explored
from drills.outcome import guarded, parser, positive, run_folder, say, tell
from drills.schedule import KINDS, Limits, Schedule, ScheduleError, draw, shrink

NAME = "explore"
HYPOTHESIS = (
    "whatever breaks together, as long as one replica is sound: nothing acknowledged is lost or doubled, no"
    " session reads backwards, reads are answered, writes are back within 5 s of the end"
)
EMPTY: dict[str, Any] = {
    "schedules": 0,
    "faults": 0,
    "failing": [],
    "writes_acknowledged": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "reads": 0,
    "read_errors": 0,
    "slowest_back_s": None,
}
SHRINK_TRIES = 12


@dataclass(frozen=True)
class Explored:
    """A schedule and how it ended."""

    schedule: Schedule
    judgement: Judgement


def experiment(schedule: Schedule, *, bundle: Path | None, limits: ExploreLimits) -> Experiment[Rehearsal]:
    """One schedule as a value: the failover's load under it."""
    base = failover.experiment(seed=schedule.seed, bundle=bundle)
    after = frozenset({"before", "after"})
    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        # While anything may be broken, the history alone is asked.
        probes=(
            *(replace(probe, phases=frozenset({"before"})) for probe in base.probes[:2]),
            Probe("there is one primary", one_primary, after),
            Probe("every replica serves reads", all_serve_reads, after),
        ),
        fault=Combined(schedule, to_replica),
        judge=lambda history: judge_explored(history, limits),
        during_s=0.0,
        after_s=limits.back_s + 1.0,
    )


def run_schedules(
    schedules: Callable[[], Schedule | None], setup: Setup, limits: ExploreLimits
) -> tuple[list[Explored], dict[str, Any]]:
    """Does one schedule after the other, each to a fresh cluster, until there are no more or one deviates."""
    done: list[Explored] = []
    settings: dict[str, Any] = {}
    bundle = setup["plan"].bundle
    while (schedule := schedules()) is not None:
        one = experiment(schedule, bundle=bundle, limits=limits)
        folder = setup["folder"] / f"schedule-{len(done) + 1:04d}"
        outcomes, settings = rehearse_on_cluster(
            Rehearsed(NAME, partial(_given, one), shown), {**setup, "folder": folder, "seed": schedule.seed}
        )
        done.append(Explored(schedule, outcomes[0][0]))
        if done[-1].judgement.verdict is Verdict.DEVIATED:
            break
    return done, settings


def _given(one: Experiment[Rehearsal], _seed: int) -> Experiment[Rehearsal]:
    return one


def shown(judgement: Judgement) -> str:
    """One schedule's outcome in a few words."""
    back_s = judgement.figures.get("back_s")
    told = "writes did not come back" if back_s is None else f"writes back after {back_s:.2f} s"
    return f"{judgement.figures.get('faults', 0)} faults, {told}"


def figures(done: Sequence[Explored], failing: Sequence[Path]) -> dict[str, Any]:
    """Over all schedules."""
    summed = ("faults", "writes_acknowledged", "writes_lost", "writes_doubled", "reads", "read_errors")
    backs = [one.judgement.figures.get("back_s") for one in done]
    return {
        "schedules": len(done),
        **{key: sum(one.judgement.figures.get(key, 0) for one in done) for key in summed},
        "slowest_back_s": max((back for back in backs if back is not None), default=None),
        "failing": [str(path) for path in failing],
    }


def made_smaller(failed: Explored, setup: Setup, limits: ExploreLimits) -> Schedule:
    """The smallest schedule found that still deviates."""
    tries = 0

    def fails(schedule: Schedule) -> bool:
        nonlocal tries
        tries += 1
        say(f"{NAME}: does it still deviate with {len(schedule.steps)} faults?")
        one = iter([schedule])
        folder = setup["folder"] / f"try-{tries:02d}"
        found, _ = run_schedules(lambda: next(one, None), {**setup, "folder": folder}, limits)
        return found[0].judgement.verdict is Verdict.DEVIATED

    return shrink(failed.schedule, fails, tries=SHRINK_TRIES)


def explore(
    setup: Setup, drawn: Limits, limits: ExploreLimits, *, seed: int, minutes: float
) -> tuple[Judgement, dict[str, Any]]:
    """Schedules from the seed on until the time is over or one deviates."""
    end_s = time.monotonic() + 60.0 * minutes
    number = 0

    def following() -> Schedule | None:
        nonlocal number
        if number and time.monotonic() >= end_s:
            return None
        schedule = draw(seed + number, drawn)
        number += 1
        say(f"{NAME}: seed {schedule.seed}: {'; '.join(map(str, schedule.steps))}")
        return schedule

    done, settings = run_schedules(following, setup, limits)
    failing = []
    if done and done[-1].judgement.verdict is Verdict.DEVIATED:
        small = made_smaller(done[-1], setup, limits)
        path = setup["folder"] / f"failing-{small.seed}.json"
        path.write_text(small.to_json(reasons=list(done[-1].judgement.reasons)), encoding="utf-8")
        say(f"{NAME}: smallest schedule that deviates: {'; '.join(map(str, small.steps))}")
        failing.append(path)
    return summary(done, failing), {**settings, "limits": asdict(drawn), "each": each(done)}


def replay(setup: Setup, schedule: Schedule, limits: ExploreLimits) -> tuple[Judgement, dict[str, Any]]:
    """One schedule, from a file."""
    one = iter([schedule])
    done, settings = run_schedules(lambda: next(one, None), setup, limits)
    return summary(done, []), {**settings, "each": each(done)}


def summary(done: Sequence[Explored], failing: Sequence[Path]) -> Judgement:
    """The judgement over all schedules."""
    reasons = [f"seed {one.schedule.seed}: {reason}" for one in done for reason in one.judgement.reasons]
    verdict = worst([one.judgement.verdict for one in done])
    return Judgement(verdict, figures(done, failing), tuple(reasons))


def each(done: Sequence[Explored]) -> list[dict[str, Any]]:
    """The schedules one by one, for the record."""
    return [
        {
            "seed": one.schedule.seed,
            "verdict": str(one.judgement.verdict),
            "steps": [str(step) for step in one.schedule.steps],
            **one.judgement.figures,
            "reasons": list(one.judgement.reasons),
        }
        for one in done
    ]


def read_schedule(path: Path) -> Schedule:
    """From a file. Raises: Inconclusive, saying what is wrong with it."""
    try:
        return Schedule.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ScheduleError) as error:
        raise Inconclusive(f"{path} is no schedule: {error}") from error


def main(arguments: Sequence[str]) -> int:
    """Explores from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument(
        "--minutes", type=positive(float), default=5.0, help="how long new schedules are begun"
    )
    options.add_argument("--replay", type=Path, metavar="FILE", help="do this schedule, once")
    options.add_argument(
        "--kinds", default=",".join(KINDS), help="of faults that may be drawn, joined by commas"
    )
    options.add_argument("--faults-max", type=positive(int), default=Limits.steps_max, help="of a schedule")
    options.add_argument(
        "--at-once-max", type=positive(int), default=Limits.at_once_max, help="replicas harmed"
    )
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    try:
        drawn = Limits(tuple(given.kinds.split(",")), given.faults_max, given.at_once_max)
    except ScheduleError as error:
        options.error(str(error))
    folder = run_folder(given.journal, NAME)
    given.runs = 1

    def body() -> int:
        limits = ExploreLimits()
        setup: Setup = {**setup_of(given, folder), "proxied": True}
        if given.replay is not None:
            judgement, details = replay(setup, read_schedule(given.replay), limits)
        else:
            judgement, details = explore(setup, drawn, limits, seed=given.seed, minutes=given.minutes)
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
