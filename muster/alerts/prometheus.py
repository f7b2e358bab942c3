"""``python -m muster.alerts.prometheus``: the rules as a rule file of Prometheus, on standard output.

deploy/prometheus/alerts.yaml is made so and committed; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from muster.alerts.rules import Rule, load_rules

_HEAD = """\
# Made from muster/alerts/rules.toml: python -m muster.alerts.prometheus > deploy/prometheus/alerts.yaml
groups:
  - name: muster
    rules:
"""


def rule_file(rules: Sequence[Rule]) -> str:
    """YAML text. A JSON text is a YAML text, so every value is written as JSON."""
    return _HEAD + "".join(_entry(rule) for rule in rules)


def _entry(rule: Rule) -> str:
    annotations = {"summary": rule.summary, "runbook": rule.runbook}
    return (
        f"      - alert: {rule.alert}\n"
        f"        expr: {json.dumps(rule.text)}\n"
        f"        for: {rule.for_s:g}s\n"
        f"        labels: {json.dumps({'severity': rule.severity})}\n"
        f"        annotations: {json.dumps(annotations)}\n"
    )


if __name__ == "__main__":
    print(rule_file(load_rules()), end="")
