"""The example runs under the real Chaos Toolkit, and leaves a service alone that is ill already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills import chaos
from drills.book import UnknownDrill
from drills.rig.cluster import ROOT, Cluster, ClusterPlan

EXPERIMENT = ROOT / "examples/chaos/planned_takeover.json"


def chaos_run(target: str, folder: Path) -> dict[str, Any]:
    journal = folder / "journal.json"
    command = [str(Path(sys.executable).with_name("chaos")), "--no-version-check", "--log-file"]
    command += [str(folder / "chaos.log"), "run", "--journal-path", str(journal), str(EXPERIMENT)]
    environment = {**os.environ, "MUSTER_TARGET": target, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert journal.exists(), ended.stderr
    found: dict[str, Any] = json.loads(journal.read_text())
    return found


def test_a_planned_takeover_completes_under_the_chaos_toolkit(
    scripted: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    with Cluster(scripted(2), tmp_path / "cluster") as cluster:
        cluster.start()
        before = cluster.primary().name
        found = chaos_run(",".join(cluster.addresses), tmp_path)
        assert (found["status"], found["deviated"]) == ("completed", False), found
        assert cluster.wait_primary(10.0).name != before


def test_a_service_that_does_not_answer_is_left_alone(
    scripted: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    with Cluster(scripted(2, fail_reads_every=2), tmp_path / "cluster") as cluster:
        cluster.start()
        found = chaos_run(",".join(cluster.addresses), tmp_path)
    assert found["steady_states"]["before"]["steady_state_met"] is False
    # So nothing was done to it.
    assert found["run"] == []


def test_probes_tell_what_is_there(scripted: Callable[..., ClusterPlan], tmp_path: Path) -> None:
    with Cluster(scripted(2), tmp_path / "cluster") as cluster:
        cluster.start()
        target = ",".join(cluster.addresses)
        assert chaos.reads_are_answered(target)
        assert chaos.all_replicas_answer(target)
        assert chaos.primaries(target) == 1
        cluster.kill(cluster.replicas[0])
        assert not chaos.all_replicas_answer(target)


def test_a_drill_is_an_action_that_tells_its_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = f"--bundle {tmp_path / 'absent'} --journal {tmp_path / 'run'}"
    outcome = chaos.run_drill("failover", options)
    assert outcome["verdict"] == "inconclusive"
    with pytest.raises(UnknownDrill):
        chaos.run_drill("no_such_drill")
