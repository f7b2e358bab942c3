"""The drill book and its records, looked up by name: the console belongs to no room but its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muster.commands.failures import MissingRoomError, room

_REMEDY = "Run the console from the project's folder, with what `make build` installs"
VERDICTS = {0: "held", 10: "deviated", 20: "inconclusive", 2: "was started wrongly; see its output"}
RUNS_MAX = 100


@dataclass(frozen=True)
class Past:
    """One run of the records, for a table. figures: the first few, in words."""

    number: int
    drill: str
    verdict: str
    reason: str
    ended: str
    figures: str


def book() -> list[dict[str, Any]]:
    """Every drill, as `muster drill list --json` tells it. Raises: MissingRoomError."""
    return [drill.describe() for drill in room("drills.book", _REMEDY).DRILLS]


def alerts(drill: dict[str, Any]) -> str:
    """The alerts that a drill sets off, in a sentence, or why it sets off none."""
    due = [f"{name} within {within_s:g} s" for name, within_s in drill["alerts_within_s"].items()]
    return f"Sets off {' and '.join(due)}." if due else f"Sets off no alert: {drill['silent']}."


def command(drill: dict[str, Any], *, runs: int = 1, control: bool = False, target: str = "") -> list[str]:
    """The command line after `python`. Raises: ValueError naming what does not fit together."""
    if not 1 <= runs <= RUNS_MAX:
        raise ValueError(f"runs must be from 1 to {RUNS_MAX}, not {runs}")
    line = ["-m", "muster.cli", "drill", "run", str(drill["name"])]
    if target and not drill["target"]:
        raise ValueError(
            f"{drill['name']} starts replicas of its own; it cannot be done to the running service"
        )
    if control and not drill["control"]:
        raise ValueError(f"{drill['name']} has no control")
    if control and target:
        raise ValueError("no control is done to a running service")
    if runs > 1:
        line += ["--runs", str(runs)]
    if control:
        line += str(drill["control"]).split()
    if target:
        line += ["--target", target]
    return line


def ended(code: int) -> str:
    """The end of a drill's process in words."""
    return VERDICTS.get(code, f"it ended with {code}, which is no verdict; see its output") + "."


def history(names: Sequence[str], *, limit: int = 20) -> list[Past]:
    """The newest runs of these drills, newest first. Raises: MissingRoomError; OSError; an error of the
    records.
    """
    records = room("drills.report.records", _REMEDY)
    path = records.default_path()
    if path is None:
        return []
    kept = records.Records(path)
    have = set(kept.drills())
    found = [run for name in names if name in have for run in kept.of(name, limit=limit)]
    found.sort(key=lambda run: -run.ended_unix_s)
    return [_past(run) for run in found[:limit]]


def report() -> str:
    """The page of all drills. Raises: MissingRoomError; OSError; an error of the records."""
    records = room("drills.report.records", _REMEDY)
    pages, made = room("drills.report.page", _REMEDY), room("drills.report.command", _REMEDY)
    path = records.default_path()
    if path is None:
        raise MissingRoomError(f"no runs are kept: {records.VARIABLE} is set, but empty")
    sections = made.sections(records.Records(path))
    return str(pages.render(sections, made_unix_s=time.time(), picture=pages.draw))


def _past(run: Any) -> Past:
    figures = [f"{name} {_short(value)}" for name, value in run.figures.items() if _telling(value)]
    return Past(
        number=run.number,
        drill=run.drill,
        verdict=run.verdict,
        reason=run.reason,
        ended=time.strftime("%Y-%m-%d %H:%M", time.localtime(run.ended_unix_s)),
        figures=", ".join(figures[:4]),
    )


def _telling(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
