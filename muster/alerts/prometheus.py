"""``python -m muster.alerts.prometheus``: the rules as a rule file of Prometheus, on standard output.

deploy/prometheus/alerts.yaml is made so and committed; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from muster.alerts.expression import duration_s
from muster.alerts.rules import Rule, load_rules

_HEAD = """\
# Made from muster/alerts/rules.toml: python -m muster.alerts.prometheus > deploy/prometheus/alerts.yaml
groups:
  - name: muster
    rules:
"""


def rule_file(rules: Sequence[Rule], *, scale: float = 1.0) -> str:
    """YAML text. A JSON text is a YAML text, so every value is written as JSON.

    scale: every window and duration is multiplied by it.
    """
    return _HEAD + "".join(_entry(rule, scale) for rule in rules)


def _entry(rule: Rule, scale: float) -> str:
    annotations = {"summary": rule.summary, "runbook": rule.runbook}
    return (
        f"      - alert: {rule.alert}\n"
        f"        expr: {json.dumps(_scaled(rule.text, scale))}\n"
        f"        for: {_duration(rule.for_s * scale)}\n"
        f"        labels: {json.dumps({'severity': rule.severity})}\n"
        f"        annotations: {json.dumps(annotations)}\n"
    )


def _scaled(text: str, scale: float) -> str:
    if scale == 1.0:
        return text
    return re.sub(r"\[(\w+)\]", lambda window: f"[{_duration(duration_s(window[1]) * scale)}]", text)


def _duration(seconds: float) -> str:
    """As Prometheus reads it: whole numbers alone."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{max(1, round(seconds * 1000))}ms"


if __name__ == "__main__":
    print(rule_file(load_rules()), end="")
