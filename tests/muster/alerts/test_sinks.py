"""Who is told, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.alerts import sinks
from muster.alerts.evaluator import Alert
from muster.alerts.expression import parse
from muster.alerts.rules import Rule
from muster.alerts.series import labels_of
from tests.muster.alerts.listener import Listener

RULE = Rule("MusterTest", "up == 0", parse("up == 0"), 0.0, "page", "It is down.")


def alert(status: str = "firing", instance: str = "a:1", name: str = "MusterTest") -> Alert:
    labels = labels_of({"alertname": name, "severity": "page", "instance": instance})
    rule = Rule(name, RULE.text, RULE.expression, 0.0, "page", RULE.summary)
    return Alert(status, rule, labels, 0.0, 1_700_000_000.25, None if status == "firing" else 1_700_000_060.0)


def test_a_payload_has_alertmanager_s_shape() -> None:
    told = sinks.payload([alert(), alert("resolved", "b:1")], receiver="team")
    assert told["version"] == "4"
    assert (told["status"], told["receiver"]) == ("firing", "team")
    assert told["groupLabels"] == {"alertname": "MusterTest"}
    assert told["commonLabels"] == {"alertname": "MusterTest", "severity": "page"}
    assert told["commonAnnotations"]["runbook"] == "docs/runbooks.md#mustertest"
    first, second = told["alerts"]
    assert (first["status"], first["startsAt"]) == ("firing", "2023-11-14T22:13:20.250Z")
    assert first["endsAt"] == "0001-01-01T00:00:00Z"
    assert (second["status"], second["endsAt"]) == ("resolved", "2023-11-14T22:14:20.000Z")
    assert first["fingerprint"] != second["fingerprint"]
    assert sinks.payload([alert("resolved")], receiver="team")["status"] == "resolved"


def test_a_webhook_is_told_once_for_each_name() -> None:
    with Listener() as listener:
        changed = [alert(), alert(instance="b:1"), alert(name="MusterOther")]
        sinks.Webhook(listener.url).tell(changed)
    assert [len(told["alerts"]) for told in listener.told] == [2, 1]


def test_a_webhook_that_fails_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_PAUSE_S", 0.0)
    with Listener((500, 503)) as listener:
        sinks.Webhook(listener.url).tell([alert()])
    assert listener.alerts() == [("MusterTest", "firing")]


def test_a_webhook_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_PAUSE_S", 0.0)
    with Listener((500, 500, 500)) as listener, pytest.raises(sinks.SinkError, match=listener.url):
        sinks.Webhook(listener.url).tell([alert()])


def test_a_log_file_has_a_line_for_each_change(tmp_path: Path) -> None:
    log = sinks.LogFile(tmp_path / "alerts.jsonl")
    log.tell([alert()])
    log.tell([alert("resolved")])
    first, second = (
        json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert (first["alert"], first["status"], "ended" in first) == ("MusterTest", "firing", False)
    assert (second["status"], second["ended"]) == ("resolved", "2023-11-14T22:14:20.000Z")
    with pytest.raises(sinks.SinkError, match="cannot be written"):
        sinks.LogFile(tmp_path).tell([alert()])
