from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from drills import (
    cold_start,
    corrupt_bundle,
    cpu_starvation,
    disk_full,
    fsync_error,
    memory_pressure,
    model_drift,
    noisy_data,
    slow_disk,
)
from drills.experiment import Need
from drills.journal import read_history
from drills.rehearsal import Rehearsable, except_during
from drills.rig.cluster import ClusterPlan
from tests.drills.conftest import FAKE_COMMAND

Scripted = Callable[..., ClusterPlan]
DRILLS = [
    module.DRILL
    for module in (
        cold_start,
        corrupt_bundle,
        cpu_starvation,
        disk_full,
        fsync_error,
        memory_pressure,
        model_drift,
        noisy_data,
        slow_disk,
    )
]
by_name = pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)


def test_json_is_one_object_with_the_drills_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drills.failover.SERVER_COMMAND", FAKE_COMMAND)
    arguments = ["--json", "--bundle", str(scripted().bundle), "--journal", str(tmp_path / "journal")]
    arguments += ["--products", "20", "--replicas", "2", "--deadline-ms", "5000"]
    code = cold_start.main([*arguments, "--direct-deadline-ms", "5000"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert set(result) == {"drill", "verdict", *cold_start.EMPTY}
    assert result["first_in_time"] == result["first_asked"] > 20
    history = read_history(tmp_path / "journal" / "run-0001.jsonl")
    assert {record["asked"] for record in history.of("direct")} == {"a", "b"}
    stored = json.loads((tmp_path / "journal" / "result.json").read_text(encoding="utf-8"))
    assert stored["details"]["deadline_ms"] == 5000.0
    assert [one["verdict"] for one in stored["details"]["each"]] == ["held"]


@by_name
def test_a_missing_bundle_is_inconclusive_with_every_figure(
    drill: Rehearsable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = drill.command(
        ["--json", "--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "journal")]
    )
    result = json.loads(capsys.readouterr().out)
    assert code == 20
    assert set(result) == {"drill", "verdict", "reason", *drill.empty}
    assert "no model bundle" in result["reason"]


@by_name
def test_a_machine_that_lacks_something_is_told_before_anything_starts(
    drill: Rehearsable,
    scripted: Scripted,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = Need("luck", lambda: "there is no luck here: apt-get install luck")
    for module in ("slow_disk", "fsync_error"):
        monkeypatch.setattr(f"drills.{module}.strace_need", lambda: lacking)
    for module in ("memory_pressure", "cpu_starvation"):
        monkeypatch.setattr(f"drills.{module}.group_need", lambda controller: lacking)
    monkeypatch.setattr("drills.disk_full.mount_need", lambda scratch: lacking)
    monkeypatch.setattr("drills.failover.bundle_need", lambda bundle: lacking)
    arguments = ["--json", "--bundle", str(scripted().bundle), "--journal", str(tmp_path / "journal")]
    assert drill.command(arguments) == 20
    assert "apt-get install luck" in json.loads(capsys.readouterr().out)["reason"]
    assert not (tmp_path / "journal" / "cluster").exists()


@by_name
@pytest.mark.parametrize("arguments", [["--replicas", "1"], ["--without", "luck"], ["--nonsense"]])
def test_bad_usage_exits_with_2(drill: Rehearsable, arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        drill.command([*arguments, "--journal", str(tmp_path / "journal")])
    assert ended.value.code == 2


def test_a_probe_may_rest_while_the_fault_lasts() -> None:
    drill = fsync_error.DRILL
    assert drill.protections == ("exit",)
    options = Namespace(bundle=None, without=None)
    probes = except_during(drill.experiment(1, options).probes, "writes are acknowledged")
    resting = [probe.name for probe in probes if "during" not in probe.phases]
    assert resting == ["writes are acknowledged", "every replica serves reads"]
