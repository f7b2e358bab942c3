"""The rules, read from ``rules.toml``: one value for each alert."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.alerts.expression import Expression, ExpressionError, duration_s, parse

RULES = Path(__file__).with_name("rules.toml")
RUNBOOKS = "docs/runbooks.md"
SEVERITIES = ("page", "ticket")

_FIELDS = frozenset({"alert", "expr", "for", "severity", "summary"})
_NESTED_MAX = 8


class RulesError(Exception):
    """The file holds something that is no rule; the text names the rule and what is wrong."""


@dataclass(frozen=True)
class Rule:
    """One alert.

    expression: its condition, PromQL as written in ``text``. for_s: how long it must hold, seconds.
    """

    alert: str
    text: str
    expression: Expression
    for_s: float
    severity: str
    summary: str

    @property
    def runbook(self) -> str:
        """Where the run-book says what to do."""
        return f"{RUNBOOKS}#{self.alert.lower()}"

    def scaled(self, factor: float) -> Rule:
        """The same rule with every window and duration multiplied. Thresholds stay."""
        return replace(self, expression=self.expression.scaled(factor), for_s=self.for_s * factor)


def load_rules(path: Path = RULES) -> tuple[Rule, ...]:
    """The rules of a file, in its order. Raises: RulesError; OSError."""
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(f"{path}: {error}") from error
    shares = dict(read.get("shares", {}))
    figures = {name: repr(value) for name, value in read.get("objective", {}).items()}
    rules = tuple(_rule(entry, shares, figures) for entry in read.get("rule", ()))
    names = [rule.alert for rule in rules]
    if not rules or len(set(names)) < len(names):
        raise RulesError(f"{path}: there must be rules, each with a name of its own")
    return rules


def _rule(entry: Mapping[str, Any], shares: Mapping[str, str], figures: Mapping[str, str]) -> Rule:
    name = str(entry.get("alert", "(without a name)"))
    if (wrong := set(entry) ^ _FIELDS) or not re.fullmatch(r"[A-Z][A-Za-z]+", name):
        raise RulesError(f"rule {name}: fields missing or unknown: {', '.join(sorted(wrong)) or 'its name'}")
    if entry["severity"] not in SEVERITIES:
        raise RulesError(f"rule {name}: severity is one of {', '.join(SEVERITIES)}")
    try:
        text = _filled_in(str(entry["expr"]), shares, figures)
        return Rule(
            alert=name,
            text=text,
            expression=parse(text),
            for_s=duration_s(str(entry["for"])),
            severity=str(entry["severity"]),
            summary=str(entry["summary"]),
        )
    except ExpressionError as error:
        raise RulesError(f"rule {name}: {error}") from error


def _filled_in(text: str, shares: Mapping[str, str], figures: Mapping[str, str]) -> str:
    """The expression with what stands in braces put in: shares with a window, figures of the objective."""

    def share(match: re.Match[str]) -> str:
        if match[1] not in shares:
            raise ExpressionError(f"there is no share {match[1]!r}")
        return shares[match[1]].replace("[W]", f"[{match[2]}]").replace(":W}", f":{match[2]}}}")

    def figure(match: re.Match[str]) -> str:
        if match[1] not in figures:
            raise ExpressionError(f"there is no figure {match[1]!r}")
        return figures[match[1]]

    for _ in range(_NESTED_MAX):
        text, shares_in_it = re.subn(r"\{(\w+):(\w+)\}", share, text)
        if not shares_in_it:
            return re.sub(r"\{(\w+)\}", figure, text)
    raise ExpressionError("shares that name each other in a circle")
