"""What a drill is, and the one way to run it.

An experiment is a frozen value: a base load, probes of the steady state, a fault with its rollback, a judge,
a seed and what the machine must offer. `conduct` runs it: probes before, during and after, the rollback
whatever happens, and the verdict by the judge, which sees nothing but the recorded history. "Could not tell"
is a verdict of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from drills.journal import History, Journal


class Verdict(StrEnum):
    """How a drill ended."""

    HELD = "held"
    DEVIATED = "deviated"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0 held, 10 deviated, 20 inconclusive: what the process that ran the drill exits with."""
        return {Verdict.HELD: 0, Verdict.DEVIATED: 10, Verdict.INCONCLUSIVE: 20}[self]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict over several runs: one deviation decides, then one doubt; no run at all is a doubt."""
    if Verdict.DEVIATED in verdicts:
        return Verdict.DEVIATED
    if Verdict.INCONCLUSIVE in verdicts or not verdicts:
        return Verdict.INCONCLUSIVE
    return Verdict.HELD


class Inconclusive(Exception):
    """The drill could not tell; the text says why and what to do about it."""


@dataclass(frozen=True)
class Finding:
    """What one probe saw."""

    held: bool
    detail: str


@dataclass(frozen=True)
class Need:
    """Something the machine must offer before the drill can say anything.

    missing: returns a sentence that says what is missing and how to get it, or None where nothing is.
    """

    name: str
    missing: Callable[[], str | None]


class Load(Protocol):
    """Traffic that runs beside the experiment."""

    def start(self) -> None:
        """Begins to send; returns once the first requests are on their way."""

    def stop(self) -> None:
        """Sends nothing more, waits for what is in flight, writes the history. Safe to call twice."""


S = TypeVar("S")
"""The subject: what the drill is done to, usually a cluster of replicas."""

S_contra = TypeVar("S_contra", contravariant=True)


class Fault(Protocol[S_contra]):
    """One thing going wrong, and its undoing."""

    @property
    def name(self) -> str:
        """One word, for the history and the plot."""
        ...

    def inject(self, subject: S_contra) -> dict[str, Any]:
        """Breaks it; returns what was done (replica, pid), for the history. "instant_s": when, on the
        monotonic clock, where that was before the return."""
        ...

    def rollback(self, subject: S_contra) -> dict[str, Any] | None:
        """Undoes it. Called always, also when `inject` was never reached or failed; must not depend on it.
        Returns what was found on the way, for the history. "instant_s": as of `inject`."""
        ...


@dataclass(frozen=True)
class Probe(Generic[S]):
    """One statement about the steady state, checked while the experiment runs."""

    name: str
    check: Callable[[S], Finding]
    phases: frozenset[str] = frozenset({"before", "during", "after"})


@dataclass(frozen=True)
class AlertFindings:
    """What the alerts of a run tell: figures for the record, what deviates, and what cannot be told."""

    figures: dict[str, Any]
    deviations: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


class Alerts(Protocol):
    """The alerts that are watched beside a run."""

    @property
    def required(self) -> bool:
        """Whether what is wrong with them counts; else it is noted."""
        ...

    def settled(self, since_unix_s: float) -> list[dict[str, Any]]:
        """What began to fire or ended since then: alert, status, labels, at_unix_s; waits for what is
        expected, but not for long."""
        ...

    def judged(self, history: History, excuse: str | None) -> AlertFindings:
        """What the alerts in the history tell. excuse: why none is due in this run; None: they are."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What the judge read out of the history."""

    verdict: Verdict
    figures: dict[str, Any]
    reasons: tuple[str, ...] = ()


def in_words(*parts: str | tuple[str, float | None]) -> str:
    """Parts of a run's outcome in one line. A pair: what happened, and how many milliseconds after the fault;
    left out where it did not."""
    told = []
    for part in parts:
        if isinstance(part, str):
            told.append(part)
        elif part[1] is not None:
            told.append(f"{part[0]} after {part[1]} ms")
    return ", ".join(told)


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """A rehearsed failure.

    before_s, during_s, after_s: seconds of base load ahead of the fault, between fault and rollback, and
    after it.
    settle_s: seconds that the base load may go on beyond before_s until the steady state is reached; the
    fault waits for it.
    collect: reads what only the subject can tell (its log) into the journal, once the load has ended.
    alert_excuse: reads in the history why the alerts of the drill are not due after all, where what they
    tell of did not come about; None: they are due.
    """

    name: str
    hypothesis: str
    seed: int
    load: Callable[[S, Journal, int], Load]
    probes: tuple[Probe[S], ...]
    fault: Fault[S]
    judge: Callable[[History], Judgement]
    collect: Callable[[S, Journal], None]
    before_s: float
    during_s: float
    after_s: float
    settle_s: float = 0.0
    needs: tuple[Need, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    alert_excuse: Callable[[History], str | None] = lambda history: None


SETTLE_STEP_S = 0.5
"""Pause between two looks at a steady state that has not been reached yet."""


def missing_needs(needs: Sequence[Need]) -> list[str]:
    """One sentence for each need that this machine does not meet."""
    return [sentence for need in needs if (sentence := need.missing()) is not None]


def conduct(
    experiment: Experiment[S],
    subject: S,
    journal: Journal,
    *,
    alerts: Alerts | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Judgement:
    """Runs the experiment once on a subject that is up, and returns the judgement.

    The rollback runs whatever happens, and so does the end of the load. A need that is missing, a steady
    state that did not hold before the fault, or a fault that could not be injected make the run inconclusive;
    so does a history that does not let the judge tell.
    alerts: those that the fault should set off; where they are required, one that did not fire in time, or
    did not end, is a deviation.
    """
    missing = missing_needs(experiment.needs)
    if missing:
        return Judgement(Verdict.INCONCLUSIVE, {}, tuple(missing))
    load = experiment.load(subject, journal, experiment.seed)
    doubts: list[str] = []
    deviations: list[str] = []

    def probe(phase: str) -> list[str]:
        failed = []
        for one in experiment.probes:
            if phase not in one.phases:
                continue
            try:
                finding = one.check(subject)
            except Exception as error:  # a probe that cannot look has seen nothing good
                finding = Finding(False, f"{type(error).__name__}: {error}")
            journal.write("probe", phase=phase, probe=one.name, held=finding.held, detail=finding.detail)
            if not finding.held:
                failed.append(f"{phase} the fault, '{one.name}' did not hold: {finding.detail}")
        return failed

    try:
        try:
            journal.write("phase", phase="before")
            load.start()
            sleep(experiment.before_s)
            doubts = probe("before")
            settling_s = 0.0
            while doubts and settling_s < experiment.settle_s:
                sleep(SETTLE_STEP_S)
                settling_s += SETTLE_STEP_S
                doubts = probe("before")
            if not doubts:
                journal.write("steady")
                journal.write("phase", phase="during")
                try:
                    done = experiment.fault.inject(subject)
                except Inconclusive as error:
                    doubts.append(f"the fault could not be injected: {error}")
                else:
                    journal.write("fault", **_stamped(experiment.fault.name, done, journal))
                    sleep(experiment.during_s)
                    deviations += probe("during")
        finally:
            undone = experiment.fault.rollback(subject) or {}
            journal.write("rollback", **_stamped(experiment.fault.name, undone, journal))
        if not doubts:
            journal.write("phase", phase="after")
            sleep(experiment.after_s)
            deviations += probe("after")
    finally:
        load.stop()
        journal.write("phase", phase="end")
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, {}, tuple(doubts))
    experiment.collect(subject, journal)
    judgement = experiment.judge(journal.history())
    if alerts is not None:
        journal.extend(_seen_alerts(alerts, journal))
        history = journal.history()
        seen = alerts.judged(history, experiment.alert_excuse(history))
        judgement = replace(judgement, figures={**judgement.figures, "alerts": seen.figures})
        if alerts.required:
            deviations += seen.deviations
            doubts += seen.doubts
    if judgement.verdict is Verdict.HELD and (deviations or doubts):
        verdict = Verdict.DEVIATED if deviations else Verdict.INCONCLUSIVE
        return Judgement(verdict, judgement.figures, (*judgement.reasons, *(deviations or doubts)))
    return judgement


def _seen_alerts(alerts: Alerts, journal: Journal) -> list[dict[str, Any]]:
    started_s = journal.started_unix_s
    return [
        {"kind": "alert", "at_s": round(one["at_unix_s"] - started_s, 3), **one}
        for one in alerts.settled(started_s)
    ]


def _stamped(name: str, done: dict[str, Any], journal: Journal) -> dict[str, Any]:
    """The fault's record; a fault that knows its own instant (monotonic seconds) is stamped with that."""
    fields = {"fault": name, **done}
    if (instant_s := fields.pop("instant_s", None)) is not None:
        fields["at_s"] = journal.elapsed_s(instant_s)
    return fields


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed. Raises ValueError on
    none."""
    if not values:
        raise ValueError("a quantile of no values")
    ordered = sorted(values)
    # Rounded first: 0.95 * 20 is 19.000000000000004 in binary, and its ceiling would be one rank too high.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]
