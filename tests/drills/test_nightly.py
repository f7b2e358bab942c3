from __future__ import annotations

from typing import Any

import pytest

from drills.book import DRILLS, UnknownDrill
from drills.experiment import Verdict
from drills.gate import Task
from drills.nightly import Night, spend, tasks_of
from muster.bundle import Rehearsed


def ended(task: Task, verdict: Verdict, reason: str = "") -> Rehearsed:
    return Rehearsed(task.drill, str(verdict), reason, task.command, {})


def night(whole: Verdict, control: Verdict | None) -> Night:
    one = Task("failover")
    return Night("failover", ended(one, whole, "why"), control and ended(one, control, "so"))


@pytest.mark.parametrize(
    ("whole", "control", "verdict", "deviated"),
    [
        (Verdict.HELD, Verdict.DEVIATED, Verdict.HELD, True),
        (Verdict.HELD, Verdict.HELD, Verdict.DEVIATED, False),
        (Verdict.DEVIATED, Verdict.DEVIATED, Verdict.DEVIATED, True),
        (Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, None),
        (Verdict.INCONCLUSIVE, Verdict.HELD, Verdict.DEVIATED, False),
        (Verdict.HELD, None, Verdict.HELD, None),
    ],
)
def test_well_is_a_drill_that_held_and_whose_control_deviated(
    whole: Verdict, control: Verdict | None, verdict: Verdict, deviated: bool | None
) -> None:
    one = night(whole, control)
    assert one.verdict is verdict
    assert one.plain()["control_deviated"] is deviated
    assert bool(one.reason) == (verdict is not Verdict.HELD)


def test_each_drill_is_run_whole_and_then_by_its_control() -> None:
    run: list[str] = []

    def rehearse(task: Task, bundle: Any) -> Rehearsed:
        run.append(task.command)
        control = any(option in task.options for option in ("--without", "--plant"))
        return ended(task, Verdict.DEVIATED if control else Verdict.HELD)

    nights = spend(tasks_of(["failover", "clock-jump"]), tell=lambda text: None, rehearse=rehearse)
    assert run == [
        "failover --runs 1",
        "failover --runs 1 --without standby",
        "clock_jump --runs 1",
        "clock_jump --runs 1 --plant lease",
    ]
    assert [one.verdict for one in nights] == [Verdict.HELD, Verdict.HELD]


def test_without_names_all_are_meant_and_an_unknown_one_is_refused() -> None:
    assert {task.drill for task in tasks_of([])} == {drill.name for drill in DRILLS}
    with pytest.raises(UnknownDrill):
        tasks_of(["meteor"])


def test_every_drill_has_a_control() -> None:
    assert [drill.name for drill in DRILLS if not drill.control] == []
