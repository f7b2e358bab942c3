"""Alerts by the evaluator of `muster.alerts`, from the metrics pages that the console reads anyway."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fired:
    """An alert that fires. since: the local time of its beginning."""

    name: str
    severity: str
    what: str
    since: str


class Alerts:
    """The rules and what fires. problem: why there is nothing to evaluate; empty: there is."""

    def __init__(self) -> None:
        self.problem = ""
        self._evaluator: Any = None
        self._rules: list[Any] = []
        self._looked_s = 0.0
        try:
            rules = importlib.import_module("muster.alerts.rules")
            evaluator = importlib.import_module("muster.alerts.evaluator")
        except ImportError:
            self.problem = "This installation has no evaluator of alerts."
            return
        try:
            self._rules = list(rules.load_rules())
        except (OSError, rules.RulesError) as error:
            self.problem = f"The rules cannot be read: {error}"
            return
        self._evaluator = evaluator.Evaluator(self._rules)

    def take(self, pages: Mapping[str, str | None], at_s: float) -> None:
        """One look's metrics pages; None: no answer. The same look twice changes nothing."""
        if self._evaluator is None or not pages or at_s <= self._looked_s:
            return
        self._looked_s = at_s
        for target, page in pages.items():
            try:
                self._evaluator.scraped(at_s, target, page)
            except ValueError:
                self._evaluator.scraped(at_s, target, None)
        self._evaluator.evaluate(at_s)

    def firing(self) -> list[Fired]:
        """What fires now."""
        if self._evaluator is None:
            return []
        return [
            Fired(
                alert.name,
                alert.rule.severity,
                alert.described(),
                time.strftime("%H:%M:%S", time.localtime(alert.started_s)),
            )
            for alert in self._evaluator.firing()
        ]

    def rules(self) -> list[tuple[str, str, float, str]]:
        """Each rule: name, severity, how long it must hold in seconds, and what it means."""
        return [(rule.alert, rule.severity, rule.for_s, rule.summary) for rule in self._rules]
