"""Every drill twice: whole, and by its control. A drill whose control holds would notice nothing.

muster drill nightly                     all of them (`make nightly`): an hour and more
muster drill nightly failover latency    these alone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drills.book import find
from drills.experiment import Verdict, worst
from drills.gate import Task, load_profile, rehearse
from muster.bundle import Rehearsed

PROFILE = "book"


@dataclass(frozen=True)
class Night:
    """One drill's night. control: None: the drill has none."""

    drill: str
    whole: Rehearsed
    control: Rehearsed | None

    @property
    def verdict(self) -> Verdict:
        """Held: the drill held and its control deviated. Deviated: one of them did the opposite."""
        whole = Verdict(self.whole.verdict)
        if self.control is None:
            return whole
        opposite = {Verdict.HELD: Verdict.DEVIATED, Verdict.DEVIATED: Verdict.HELD}
        control = Verdict(self.control.verdict)
        return worst([whole, opposite.get(control, control)])

    @property
    def reason(self) -> str:
        """What kept it from being as it should; empty: nothing."""
        reasons = [] if self.whole.verdict == Verdict.HELD else [self.whole.reason]
        if self.control is not None and self.control.verdict != Verdict.DEVIATED:
            why = self.control.reason or "nothing was noticed"
            reasons.append(f"{self.control.command}: {self.control.verdict}: {why}")
        return "; ".join(reasons)

    def plain(self) -> dict[str, Any]:
        """As JSON values. control_deviated: None where there is no control, or it could not tell."""
        told = {Verdict.DEVIATED: True, Verdict.HELD: False}
        control = None if self.control is None else told.get(Verdict(self.control.verdict))
        return {
            "drill": self.drill,
            "verdict": str(self.verdict),
            "held": self.whole.verdict == Verdict.HELD,
            "control": "" if self.control is None else self.control.command,
            "control_deviated": control,
            "reason": self.reason,
        }


def tasks_of(names: Sequence[str]) -> list[Task]:
    """What the profile says of the drills of these names; of all where there are none. Raises:
    `drills.book.UnknownDrill`."""
    wanted = {find(name).name for name in names}
    return [task for task in load_profile(PROFILE) if not wanted or task.drill in wanted]


def spend(
    tasks: Sequence[Task],
    *,
    tell: Callable[[str], None],
    rehearse: Callable[[Task, None], Rehearsed] = rehearse,
) -> list[Night]:
    """Runs each drill, then its control. tell: progress."""
    nights = []
    for number, task in enumerate(tasks, 1):
        tell(f"{number} of {len(tasks)}: {task.command}")
        whole = rehearse(task, None)
        control = None
        if option := find(task.drill).control:
            weakened = Task(task.drill, (*task.options, *option.split()))
            tell(f"{number} of {len(tasks)}: {weakened.command}")
            control = rehearse(weakened, None)
        nights.append(Night(task.drill, whole, control))
        tell(f"{task.drill}: {nights[-1].verdict}" + (f", {nights[-1].reason}" if nights[-1].reason else ""))
    return nights
