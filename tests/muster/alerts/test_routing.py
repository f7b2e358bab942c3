"""The committed configuration of Alertmanager sends pages to the pager and tickets to the tickets."""

from __future__ import annotations

import json
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from muster.alerts.rules import load_rules
from tests.muster.alerts.listener import Listener
from tests.muster.alerts.prometheus import ALERTMANAGER, MISSING, alertmanager

ROOT = Path(__file__).parents[3]
RULES = {rule.alert: rule for rule in load_rules()}


def send(port: int, *alerts: tuple[str, bool]) -> None:
    """Tell Alertmanager as Prometheus does. alerts: name, and whether it still fires."""
    now = datetime.now(UTC)
    body = [
        {
            "labels": {"alertname": name, "severity": RULES[name].severity, "instance": "a:1"},
            "annotations": {"summary": RULES[name].summary, "runbook": RULES[name].runbook},
            "startsAt": (now - timedelta(seconds=60)).isoformat(),
            "endsAt": (now + timedelta(seconds=-1 if not fires else 600)).isoformat(),
        }
        for name, fires in alerts
    ]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v2/alerts",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=5.0) as answer:
        assert answer.status == 200


@pytest.mark.skipif(ALERTMANAGER is None, reason=MISSING)
def test_pages_and_tickets_reach_their_receivers_and_the_end_is_told(tmp_path: Path) -> None:
    configuration = (ROOT / "deploy/prometheus/alertmanager.yaml").read_text(encoding="utf-8")
    with Listener() as pager, Listener() as tickets:
        for path, listener in (("page", pager), ("ticket", tickets)):
            configuration = configuration.replace(f"http://127.0.0.1:9099/{path}", listener.url)
        # The same waits, but shorter.
        configuration = re.sub(r"(group_\w+): \w+", r"\1: 200ms", configuration)
        with alertmanager(configuration, tmp_path) as port:
            send(port, ("MusterNoReplica", True), ("MusterReplicaLag", True))
            assert pager.wait_for("MusterNoReplica", "firing", 20.0)
            assert tickets.wait_for("MusterReplicaLag", "firing", 20.0)
            # Told of nothing that follows from what it was told already.
            send(port, ("MusterPrimaryDown", True), ("MusterStale", True))
            assert pager.wait_for("MusterStale", "firing", 20.0)
            send(port, ("MusterReplicaLag", False))
            assert tickets.wait_for("MusterReplicaLag", "resolved", 20.0)
    assert {name for name, _ in pager.alerts()} == {"MusterNoReplica", "MusterStale"}
    assert {name for name, _ in tickets.alerts()} == {"MusterReplicaLag"}
