"""Schedules of faults: drawn at random within declared limits, kept in a file, and made smaller.

Pure: what a fault does is in `drills.faults.combined`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

PRIMARY, STANDBY = "primary", "standby"
"""Whose turn it is: looked up when the moment has come."""

KILL, STOP, CUT, SLOW = "kill", "stop", "cut", "slow"
KINDS = (KILL, STOP, CUT, SLOW)
"""kill -9 and a start at the end; SIGSTOP and SIGCONT; the way to clients cut; the way to clients slow."""

SCHEMA_VERSION = 1


class ScheduleError(ValueError):
    """No schedule; the text says why."""


@dataclass(frozen=True)
class Step:
    """One fault. at_s: from the beginning. lasts_s: until it is undone. whose: PRIMARY or STANDBY."""

    at_s: float
    kind: str
    whose: str
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s: {self.kind} {self.whose} for {self.lasts_s:.2f} s"


@dataclass(frozen=True)
class Limits:
    """How far a drawn schedule may go: the blast radius.

    kinds: that may be drawn. steps_max: faults. at_once_max: replicas that are harmed at the same moment; the
    others must carry on alone. lasts_s: shortest and longest of a fault. length_s: of the whole schedule.
    """

    kinds: tuple[str, ...] = KINDS
    steps_max: int = 6
    at_once_max: int = 2
    lasts_s: tuple[float, float] = (0.2, 2.5)
    length_s: float = 8.0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ScheduleError(f"kinds of faults are {', '.join(KINDS)}, not {', '.join(unknown) or 'none'}")
        shortest, longest = self.lasts_s
        if not 0 < shortest <= longest < self.length_s or self.steps_max < 1 or self.at_once_max < 1:
            raise ScheduleError("limits need 0 < shortest <= longest < length, and at least one fault")


@dataclass(frozen=True)
class Schedule:
    """Faults in the order of their moments. seed: of the load under which they happen."""

    seed: int
    steps: tuple[Step, ...]

    def to_json(self, **noted: Any) -> str:
        """For a file. noted: beside it, for people."""
        value = {
            "schema_version": SCHEMA_VERSION,
            "seed": self.seed,
            "steps": [asdict(one) for one in self.steps],
        }
        return json.dumps({**noted, **value}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Reads one. Raises: ScheduleError, naming what is wrong."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ScheduleError(f"not JSON: {error}") from error
        if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
            raise ScheduleError(f"not a schedule of schema {SCHEMA_VERSION}")
        seed, steps = value.get("seed"), value.get("steps")
        if not isinstance(seed, int) or isinstance(seed, bool) or not isinstance(steps, list):
            raise ScheduleError("it needs a whole number as seed, and a list of steps")
        return cls(seed, tuple(sorted((_step(one) for one in steps), key=lambda step: step.at_s)))


def _step(value: Any) -> Step:
    if not isinstance(value, dict) or set(value) != {"at_s", "kind", "whose", "lasts_s"}:
        raise ScheduleError(f"a step has at_s, kind, whose and lasts_s, unlike {str(value)[:80]}")
    if value["kind"] not in KINDS or value["whose"] not in (PRIMARY, STANDBY):
        raise ScheduleError(f"no step {value['kind']} {value['whose']}")
    moments = [value["at_s"], value["lasts_s"]]
    if not all(_number(moment) and 0 <= moment <= 3600 for moment in moments):
        raise ScheduleError(f"moments are 0 to 3600 seconds, unlike {moments}")
    return Step(float(value["at_s"]), value["kind"], value["whose"], float(value["lasts_s"]))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw(seed: int, limits: Limits) -> Schedule:
    """A schedule at random; the same for the same seed and limits."""
    chance = random.Random(seed)
    steps: list[Step] = []
    for _ in range(chance.randint(1, limits.steps_max)):
        lasts_s = round(chance.uniform(*limits.lasts_s), 2)
        step = Step(
            round(chance.uniform(0.0, limits.length_s - lasts_s), 2),
            chance.choice(limits.kinds),
            chance.choice((PRIMARY, STANDBY)),
            lasts_s,
        )
        if most_at_once([*steps, step]) <= limits.at_once_max:
            steps.append(step)
    return Schedule(seed, tuple(sorted(steps, key=lambda step: step.at_s)))


def most_at_once(steps: list[Step]) -> int:
    """The most faults that last at one moment."""
    return max(
        (sum(one.at_s <= step.at_s < one.at_s + one.lasts_s for one in steps) for step in steps), default=0
    )


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], *, tries: int) -> Schedule:
    """The smallest schedule found within so many tries that still fails: without what is not needed, then
    with shorter faults. fails: run it and see.

    By leaving out halves, quarters and so on (Zeller & Hildebrandt, IEEE TSE 28, 2002). Real processes do not
    always fail twice, so what does not fail again is kept in.
    """
    left = tries

    def tried(steps: tuple[Step, ...]) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= 1
        return fails(Schedule(schedule.seed, steps))

    steps, parts = schedule.steps, 2
    while len(steps) > 1 and left > 0:
        size = math.ceil(len(steps) / parts)
        without = (steps[:start] + steps[start + size :] for start in range(0, len(steps), size))
        smaller = next((one for one in without if one and tried(one)), None)
        if smaller is not None:
            steps, parts = smaller, max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(steps), 2 * parts)
    for number, step in enumerate(steps):
        shorter = Step(step.at_s, step.kind, step.whose, round(step.lasts_s / 2, 2))
        changed = (*steps[:number], shorter, *steps[number + 1 :])
        if shorter.lasts_s >= 0.1 and tried(changed):
            steps = changed
    return Schedule(schedule.seed, steps)
