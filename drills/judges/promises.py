"""What every drill with reads and writes is held to, whatever its fault.

No read fails, no acknowledged write is lost, moved or doubled, epochs never fall, sessions never go back. The
judge of a drill adds what its own hypothesis says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.experiment import Judgement, Verdict, worst
from drills.journal import History, Record
from drills.judges.checks import STALL_MS, TIMED_OUT, generator_stall_ms, read_errors, steady_reads
from drills.judges.history import OK, check_epochs, check_sessions, check_writes

FIGURES: dict[str, Any] = {
    "reads": 0,
    "read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
"""The figures of `check_promises`, as they are before anything was measured."""


_STARVED = (TIMED_OUT, "Unavailable")
"""What calls end with on a machine that keeps its processes waiting: time-outs, their own or of a ping."""


@dataclass
class Findings:
    """What a judge has found so far. deviations decide, then doubts."""

    figures: dict[str, Any]
    deviations: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def judgement(self) -> Judgement:
        """The verdict that follows."""
        if self.deviations:
            return Judgement(Verdict.DEVIATED, self.figures, tuple(self.deviations))
        if self.doubts:
            return Judgement(Verdict.INCONCLUSIVE, self.figures, tuple(self.doubts))
        return Judgement(Verdict.HELD, self.figures)


def check_promises(history: History, *, every_read: bool = True) -> Findings:
    """The common promises over the whole run. every_read: each must be answered; else the drill's own judge
    says how many."""
    reads, errors = steady_reads(history), read_errors(history)
    epochs, writes = check_epochs(history), check_writes(history)
    found = Findings(
        {
            **FIGURES,
            "reads": len(reads),
            "read_errors": len(errors),
            "write_errors": sum(write["status"] != OK for write in history.of("write")),
            "epochs_monotone": not epochs,
        }
    )
    if history.first("fault") is None:
        found.doubts.append("no fault was injected")
    found.deviations += [*epochs, *check_sessions(history)]
    if every_read:
        _every_read(found, history, errors)
    if not reads:
        found.doubts.append("no read was sent")
    if writes is None:
        found.doubts.append("the log could not be read to its end, so nothing is known of lost writes")
    else:
        found.figures["writes_acknowledged"] = writes.acknowledged
        found.figures["writes_lost"] = len(writes.lost)
        found.figures["writes_doubled"] = len(writes.doubled)
        found.deviations += writes.problems()
        if not writes.acknowledged:
            found.doubts.append("no write was acknowledged")
    return found


def _every_read(found: Findings, history: History, errors: Sequence[Record]) -> None:
    stall_ms = generator_stall_ms(history)
    if errors and stall_ms > STALL_MS and all(read["status"] in _STARVED for read in errors):
        found.doubts.append(
            f"{len(errors)} reads were not answered in time, but this machine kept the load generator itself "
            f"waiting for up to {stall_ms:.0f} ms: too busy to judge"
        )
        return
    found.deviations += [
        f"a read at {read['intended_s']:.3f} s ended with {read['status']}: {read.get('detail', '')}"
        for read in errors[:3]
    ]


def unless_stalled(found: Findings, history: History, sentence: str) -> None:
    """A deviation, or a doubt where the machine kept the load generator waiting as well."""
    stall_ms = generator_stall_ms(history)
    if stall_ms > STALL_MS:
        found.doubts.append(
            f"{sentence}; but this machine kept the load generator itself waiting for up to {stall_ms:.0f} ms"
        )
    else:
        found.deviations.append(sentence)


def fault_window(history: History) -> tuple[float, float] | None:
    """From the fault to its rollback, seconds since the run began; None: there was no fault."""
    fault, rollback = history.first("fault"), history.first("rollback")
    if fault is None or rollback is None:
        return None
    return fault["at_s"], rollback["at_s"]


def setting(history: History, name: str) -> Any:
    """One of the settings in the run's header. Raises: KeyError."""
    header = history.first("run")
    return (header or {}).get("settings", {})[name]


def sent_within(calls: Sequence[Record], window: tuple[float, float]) -> list[Record]:
    """The calls whose intended moment lies in the window, seconds since the run began."""
    return [call for call in calls if window[0] <= call["intended_s"] < window[1]]


def over_runs(runs: Sequence[Judgement], empty: Mapping[str, Any]) -> Judgement:
    """The verdict over all runs: counts are summed, truths must hold in each, of measures (None where there
    is none) the worst is told: the greatest, of what ends in `_share` the least. empty: the figures by name,
    as they are before anything was measured, "runs" among them.
    """
    reasons = [f"run {number}: {reason}" for number, run in enumerate(runs, 1) for reason in run.reasons]
    return Judgement(
        worst([run.verdict for run in runs]), {"runs": len(runs), **_over(runs, empty)}, tuple(reasons)
    )


def over_parts(parts: Sequence[Judgement], empty: Mapping[str, Any]) -> Judgement:
    """The verdict over what `over_runs` told of several kinds of the same fault."""
    reasons = tuple(reason for part in parts for reason in part.reasons)
    runs = sum(part.figures["runs"] for part in parts)
    return Judgement(worst([part.verdict for part in parts]), {"runs": runs, **_over(parts, empty)}, reasons)


def _over(found: Sequence[Judgement], empty: Mapping[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, before in empty.items():
        if name == "runs":
            continue
        values = [one.figures[name] for one in found if one.figures.get(name) is not None]
        if isinstance(before, bool):
            figures[name] = all(values)
        elif isinstance(before, int):
            figures[name] = sum(values)
        else:
            figures[name] = (min if name.endswith("_share") else max)(values, default=None)
    return figures
