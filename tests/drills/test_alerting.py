"""The alert of a fault fires and ends, for the drill and for a real Prometheus with its Alertmanager."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drills.book import DRILLS, Drill, watched_in
from drills.judges.alerts import FASTER, LONG_WINDOWED
from muster.alerts.prometheus import rule_file
from muster.alerts.rules import load_rules
from tests.muster.alerts.listener import Listener
from tests.muster.alerts.prometheus import ALERTMANAGER, MISSING, PROMETHEUS, alertmanager, prometheus

ROOT = Path(__file__).parents[2]

PROMETHEUS_CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}
rule_files: [alerts.yaml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs:
  - job_name: muster
    file_sd_configs: [{{files: ["{targets}"], refresh_interval: 1s}}]
"""


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
def test_each_drill_names_an_alert_that_can_fire_in_time_or_says_why_none_is_due(drill: Drill) -> None:
    rules = {rule.alert: rule for rule in load_rules()}
    assert bool(drill.alerts) != bool(drill.silent)
    assert {due.name for due in drill.alerts} | set(drill.aside) <= rules.keys()
    assert not {due.name for due in drill.alerts} & set(drill.aside)
    assert not LONG_WINDOWED & {due.name for due in drill.alerts}
    assert rules.keys() >= LONG_WINDOWED
    for due in drill.alerts:
        assert rules[due.name].for_s / drill.faster < due.within_s


def test_the_alerts_of_a_control_do_not_count_and_beside_no_drill_nobody_watches() -> None:
    whole, control = watched_in("failover"), watched_in("failover", control=True)
    assert whole is not None and control is not None
    assert (whole.counts, control.counts) == (True, False)
    assert whole.due == control.due
    assert watched_in("no_such_drill") is None


@pytest.mark.rehearsal
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not os.environ.get("MUSTER_REHEARSALS"), reason="set MUSTER_REHEARSALS=1 to run it")
@pytest.mark.skipif(PROMETHEUS is None or ALERTMANAGER is None, reason=MISSING)
def test_a_killed_primary_is_told_by_prometheus_and_by_the_drill(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    (tmp_path / "alerts.yaml").write_text(rule_file(load_rules(), scale=1 / FASTER), encoding="utf-8")
    routes = (ROOT / "deploy/prometheus/alertmanager.yaml").read_text(encoding="utf-8")
    with Listener() as pager:
        routes = re.sub(r"http://127\.0\.0\.1:9099/\w+", pager.url, routes)
        routes = re.sub(r"group_interval: \w+", "group_interval: 500ms", routes)
        with alertmanager(routes, tmp_path) as port:
            targets = folder / "cluster" / "prometheus.json"
            configuration = PROMETHEUS_CONFIGURATION.format(alertmanager=port, targets=targets)
            with prometheus(configuration, tmp_path):
                drill = [sys.executable, "-m", "drills.failover", "--runs", "2", "--products", "200"]
                done = subprocess.run(
                    [*drill, "--json", "--journal", str(folder)],
                    cwd=ROOT,
                    env={**os.environ, "MUSTER_DRILL_RECORDS": "", "MUSTER_DRILL_ALERTS": ""},
                    capture_output=True,
                    text=True,
                    timeout=200,
                    check=False,
                )
                assert pager.wait_for("MusterPrimaryDown", "resolved", 10.0), (pager.alerts(), done.stderr)
    assert ("MusterPrimaryDown", "firing") in pager.alerts()
    assert "MusterNoPrimary" not in {name for name, _ in pager.alerts()}
    figures = json.loads(done.stdout)
    assert figures["alerts"]["MusterPrimaryDown"]["fired_ms_p50"] > 0.0, done.stderr
    assert "MusterNoPrimary" not in figures["alerts"]["others"]
