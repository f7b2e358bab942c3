"""Which alerts fire: the rules evaluated at one moment after the other, without a clock or a socket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from muster.alerts.expression import ExpressionError
from muster.alerts.rules import Rule
from muster.alerts.series import STALE_AFTER_S, Labels, Sample, SeriesStore, labels_of, read_exposition

JOB = "muster"

FIRING = "firing"
RESOLVED = "resolved"

_KEEP_MARGIN = 1.1


@dataclass(frozen=True)
class Alert:
    """One alert that began to fire, or ended.

    labels: those of the series for which the condition holds, with "alertname" and "severity". started_s,
    ended_s: seconds since 1970; started_s is when it began to fire, as Prometheus tells it.
    """

    status: str
    rule: Rule
    labels: Labels
    value: float
    started_s: float
    ended_s: float | None = None

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.alert

    @property
    def fingerprint(self) -> str:
        """Names the alert among all; the same while it fires and when it has ended."""
        return hashlib.sha256(repr(self.labels).encode()).hexdigest()[:16]

    def described(self) -> str:
        """One line for people."""
        shown = ", ".join(
            f"{name}={value}" for name, value in self.labels if name not in ("alertname", "severity", "job")
        )
        return f"{self.name} {self.status}{f' ({shown})' if shown else ''}: {self.rule.summary}"


@dataclass
class _Active:
    since_s: float
    value: float
    fired_s: float | None = None


@dataclass
class _State:
    rule: Rule
    active: dict[Labels, _Active] = field(default_factory=dict)


class Evaluator:
    """Keeps what the scrapes brought and says what changed. Not thread-safe.

    rules: as they are to be evaluated; scale them first where time runs faster. stale_after_s: as
    ``STALE_AFTER_S``.
    """

    def __init__(self, rules: Sequence[Rule], *, stale_after_s: float = STALE_AFTER_S) -> None:
        windows_s = [rule.expression.window_s() for rule in rules]
        names = frozenset().union(*(rule.expression.names() for rule in rules))
        self._names = names
        self._store = SeriesStore(
            names, keep_s=_KEEP_MARGIN * max([*windows_s, stale_after_s]), stale_after_s=stale_after_s
        )
        self._states = [_State(rule) for rule in rules]

    def scraped(self, at_s: float, target: str, page: str | None) -> None:
        """What a replica's ``/metrics`` said; None: it did not answer. Raises: ValueError for no page."""
        labels = {"job": JOB, "instance": target}
        samples = [] if page is None else list(read_exposition(page, self._names, labels))
        self.add(at_s, target, [Sample("up", labels_of(labels), float(page is not None)), *samples])

    def add(self, at_s: float, target: str, samples: Iterable[Sample]) -> None:
        """As ``scraped``, of samples that were read before."""
        self._store.add(at_s, target, samples)

    def evaluate(self, at_s: float) -> list[Alert]:
        """The alerts that began to fire, or ended, at this moment."""
        return [alert for state in self._states for alert in self._evaluate(state, at_s)]

    def firing(self) -> list[Alert]:
        """The alerts that fire now."""
        return [
            self._told(state.rule, labels, one, FIRING, one.fired_s)
            for state in self._states
            for labels, one in state.active.items()
            if one.fired_s is not None
        ]

    def _evaluate(self, state: _State, at_s: float) -> list[Alert]:
        rule, changed = state.rule, []
        found = rule.expression.value(self._store, at_s)
        if not isinstance(found, Mapping):
            raise ExpressionError(f"rule {rule.alert} is a number, not series that meet a condition")
        for labels in [labels for labels in state.active if labels not in found]:
            one = state.active.pop(labels)
            if one.fired_s is not None:
                changed.append(self._told(rule, labels, one, RESOLVED, one.fired_s, at_s))
        for labels, value in found.items():
            one = state.active.setdefault(labels, _Active(at_s, value))
            one.value = value
            if one.fired_s is None and at_s - one.since_s >= rule.for_s:
                one.fired_s = at_s
                changed.append(self._told(rule, labels, one, FIRING, at_s))
        return changed

    @staticmethod
    def _told(
        rule: Rule,
        labels: Labels,
        one: _Active,
        status: str,
        started_s: float | None,
        ended_s: float | None = None,
    ) -> Alert:
        assert started_s is not None
        named = labels_of({**dict(labels), "alertname": rule.alert, "severity": rule.severity})
        return Alert(status, rule, named, one.value, started_s, ended_s)
