"""Every rule fires when it should and not before, by Prometheus's own evaluation and by ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from muster.alerts.evaluator import Evaluator
from muster.alerts.prometheus import rule_file
from muster.alerts.rules import RulesError, load_rules
from muster.alerts.series import Sample, labels_of
from tests.muster.alerts.scenarios import SCENARIOS, STEP_S, Scenario, values

ROOT = Path(__file__).parents[3]
RULES = {rule.alert: rule for rule in load_rules()}


def test_every_rule_has_a_scenario() -> None:
    assert {scenario.alert for scenario in SCENARIOS} == set(RULES)


def test_the_committed_rule_file_is_what_the_rules_give() -> None:
    committed = (ROOT / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8")
    assert committed == rule_file(load_rules()), (
        "run: python -m muster.alerts.prometheus > deploy/prometheus/alerts.yaml"
    )


def test_every_rule_has_a_section_in_the_run_books_and_no_section_is_left_over() -> None:
    text = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    headings = {section.splitlines()[0].strip() for section in sections if section.startswith("Muster")}
    assert headings == set(RULES)
    for section in sections:
        if section.startswith("Muster"):
            assert "Look at" in section and "Do" in section, section.splitlines()[0]


def labels(scenario: Scenario) -> dict[str, str]:
    rule = RULES[scenario.alert]
    return {**scenario.labels, "alertname": rule.alert, "severity": rule.severity}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.alert)
def test_our_evaluator_fires_when_it_should_and_is_quiet_before(scenario: Scenario) -> None:
    evaluator = Evaluator([RULES[scenario.alert]])
    series = []
    for written, notation in scenario.series.items():
        name, text = re.fullmatch(r"(\w+)\{(.*)\}", written).groups()  # type: ignore[union-attr]
        series.append((name, labels_of(dict(re.findall(r'(\w+)="([^"]*)"', text))), values(notation)))
    moments = {scenario.fires_s, *scenario.quiet_s}
    firing = {}
    for step in range(max(moments) // STEP_S + 1):
        samples = [
            Sample(name, labelled, value)
            for name, labelled, told in series
            if step < len(told) and (value := told[step]) is not None
        ]
        evaluator.add(step * STEP_S, "all", samples)
        evaluator.evaluate(step * STEP_S)
        if step * STEP_S in moments:
            firing[step * STEP_S] = [dict(alert.labels) for alert in evaluator.firing()]
    assert firing[scenario.fires_s] == [labels(scenario)]
    assert [firing[moment] for moment in scenario.quiet_s] == [[] for _ in scenario.quiet_s]


def promtool_test(scenario: Scenario) -> dict[str, Any]:
    rule = RULES[scenario.alert]
    fired = {
        "exp_labels": {**scenario.labels, "severity": rule.severity},
        "exp_annotations": {"summary": rule.summary, "runbook": rule.runbook},
    }
    return {
        "interval": f"{STEP_S}s",
        "input_series": [
            {"series": series, "values": notation} for series, notation in scenario.series.items()
        ],
        "alert_rule_test": [
            {"eval_time": f"{moment}s", "alertname": rule.alert, "exp_alerts": expected}
            for moment, expected in (
                (scenario.fires_s, [fired]),
                *((moment, []) for moment in scenario.quiet_s),
            )
        ],
    }


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (scripts/drill-tools.sh monitoring)"
)
def test_prometheus_fires_when_it_should_and_is_quiet_before(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(rule_file(load_rules()), encoding="utf-8")
    tests = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [promtool_test(scenario) for scenario in SCENARIOS],
    }
    # A JSON text is a YAML text.
    (tmp_path / "tests.yaml").write_text(json.dumps(tests), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('alert = "lower"', "its name"),
        ('severity = "urgent"', "severity is one of"),
        ('for = "soon"', "no duration"),
        ('expr = "rate(up)"', "'[' is wanted"),
        ('expr = "{nothing:5m} > 1"', "no share 'nothing'"),
        ('expr = "{circle:5m} > 1"', "in a circle"),
        ('expr = "{nothing} > 1"', "no figure 'nothing'"),
        ('colour = "red"', "unknown: colour"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(tmp_path: Path, change: str, told: str) -> None:
    fields = {
        "alert": 'alert = "MusterTest"',
        "expr": 'expr = "up == 0"',
        "for": 'for = "1m"',
        "severity": 'severity = "page"',
        "summary": 'summary = "It is down."',
    }
    fields[change.split(" ", 1)[0]] = change
    path = tmp_path / "rules.toml"
    path.write_text(
        '[shares]\ncircle = "{circle:W}"\n[[rule]]\n' + "\n".join(fields.values()), encoding="utf-8"
    )
    with pytest.raises(RulesError, match=re.escape(told)):
        load_rules(path)
