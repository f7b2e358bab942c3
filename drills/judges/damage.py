"""The judge of damaged files. It reads the recorded history and nothing else, as those of `checks` do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement
from drills.journal import History, Record
from drills.judges.promises import FIGURES, check_promises

DAMAGE_FIGURES: dict[str, Any] = {
    **FIGURES,
    "candidates_refused": 0,
    "generations_refused": 0,
    "starts_refused": 0,
    "taken": 0,
}
_COUNTED = {
    "candidate": "candidates_refused",
    "generation": "generations_refused",
    "start": "starts_refused",
    "start_generation": "generations_refused",
}


def _named(step: Record) -> bool:
    """The refusal names the file that was damaged, or the one that is now unlike what is declared of it."""
    return step["file"] in step["said"] or step["unlike_declared"] in step["said"]


@dataclass(frozen=True)
class DamageLimits:
    """exit_code: what a replica must end with that is given a damaged bundle to start with."""

    exit_code: int = 2


def judge_corrupt_bundle(history: History, limits: DamageLimits) -> Judgement:
    """Judges one run. The fault's "steps" tell what was damaged, and what the replicas did with it."""
    found = check_promises(history)
    figures = found.figures
    figures.update({key: value for key, value in DAMAGE_FIGURES.items() if key not in FIGURES})
    fault = history.first("fault")
    steps: list[Record] = [] if fault is None else fault["steps"]
    found.deviations += [step["problem"] for step in steps if "problem" in step]
    for step in steps:
        if "problem" in step:
            continue
        what = f"{step['step']}: {step['file']} {step['damage']}"
        if step["refused"]:
            figures[_COUNTED[step["step"]]] += 1
        else:
            figures["taken"] += 1
            found.deviations.append(f"{what}: replica {step['replica']} took it")
        if not step["kept"]:
            found.deviations.append(f"{what}: what served before did not serve on")
        if step["refused"] and not _named(step):
            found.deviations.append(
                f"{what}: the refusal does not name the file: {step['said'] or 'silence'}"
            )
        if step["step"] == "start" and step["refused"] and step["code"] != limits.exit_code:
            found.deviations.append(f"{what}: the replica ended with code {step['code']}")
    if fault is not None and {step["step"] for step in steps} < set(_COUNTED):
        found.doubts.append("not every kind of damage was tried")
    return found.judgement()
