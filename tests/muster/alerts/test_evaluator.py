"""Alerts wait, fire, end and are told once."""

from __future__ import annotations

import pytest

from muster.alerts.evaluator import Alert, Evaluator
from muster.alerts.expression import parse
from muster.alerts.rules import Rule, load_rules

UP = "muster_primary 1.0\nmuster_serving 1.0\n"


def rule(text: str, for_s: float = 0.0) -> Rule:
    return Rule("MusterTest", text, parse(text), for_s, "page", "Something is wrong.")


def told(alerts: list[Alert]) -> list[tuple[str, dict[str, str]]]:
    return [
        (alert.status, {k: v for k, v in alert.labels if k not in ("alertname", "severity", "job")})
        for alert in alerts
    ]


def test_a_replica_that_is_down_fires_after_its_time_and_ends_when_it_is_back() -> None:
    evaluator = Evaluator([rule("up == 0", for_s=20.0)])
    pages = [UP, None, None, None, None, UP, UP]
    changed = []
    for step, page in enumerate(pages):
        evaluator.scraped(step * 10.0, "a:1", page)
        evaluator.scraped(step * 10.0, "b:1", UP)
        changed.append(told(evaluator.evaluate(step * 10.0)))
    fired, ended = ("firing", {"instance": "a:1"}), ("resolved", {"instance": "a:1"})
    assert changed == [[], [], [], [fired], [], [ended], []]


def test_a_condition_that_ends_before_its_time_tells_nobody() -> None:
    evaluator = Evaluator([rule("up == 0", for_s=20.0)])
    changed = []
    for step, page in enumerate([UP, None, None, UP, None, None, UP]):
        evaluator.scraped(step * 10.0, "a:1", page)
        changed += evaluator.evaluate(step * 10.0)
    assert changed == []
    assert evaluator.firing() == []


def test_an_alert_says_since_when_it_fires_and_keeps_its_fingerprint() -> None:
    evaluator = Evaluator([rule("up == 0", for_s=10.0)])
    changed = []
    for step, page in enumerate([None, None, None, UP]):
        evaluator.scraped(100.0 + step * 10.0, "a:1", page)
        changed += evaluator.evaluate(100.0 + step * 10.0)
    fired, ended = changed
    assert (fired.started_s, fired.ended_s) == (110.0, None)
    assert (ended.started_s, ended.ended_s) == (110.0, 130.0)
    assert fired.fingerprint == ended.fingerprint
    assert fired.described() == "MusterTest firing (instance=a:1): Something is wrong."


def test_the_primary_that_is_killed_is_named_though_another_one_took_over() -> None:
    rules = [
        one.scaled(1 / 60) for one in load_rules() if one.alert.startswith(("MusterPrimary", "MusterNo"))
    ]
    evaluator = Evaluator(rules, stale_after_s=5.0)
    standby = UP.replace("primary 1", "primary 0")
    changed = []
    for step in range(24):
        now_s = step * 0.25
        dead = 4 <= step < 16
        evaluator.scraped(now_s, "a:1", None if dead else UP if step < 4 else standby)
        evaluator.scraped(now_s, "b:1", UP if step >= 4 else standby)
        changed += [(step, alert.name, alert.status) for alert in evaluator.evaluate(now_s)]
    assert changed == [(6, "MusterPrimaryDown", "firing"), (16, "MusterPrimaryDown", "resolved")]


def test_a_page_that_is_none_is_refused_and_a_rule_that_is_a_number_as_well() -> None:
    evaluator = Evaluator([rule("muster_primary == 0")])
    with pytest.raises(ValueError, match="what"):
        evaluator.scraped(0.0, "a:1", "muster_primary what\n")
    with pytest.raises(ValueError, match="is a number"):
        Evaluator([rule("1 + 1")]).evaluate(0.0)
