"""Drills of broken resources on the real server, with a bundle that needs no training: whole, and each
without the protection that it relies on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from drills import corrupt_bundle, data_leak, disk_full, fsync_error, memory_pressure
from drills.experiment import Verdict
from drills.rehearsal import Rehearsable
from tests.fixtures.tiny_bundle import build

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("rankcore._native") is None,
        reason="the ranking core is not built; run `make build`",
    ),
    pytest.mark.rehearsal,
    pytest.mark.privileged,
    pytest.mark.timeout(300),
]

KEPT: dict[str, dict[str, Any]] = {
    fsync_error.NAME: {"ended_by_itself": True, "acknowledged_undurable": 0},
    disk_full.NAME: {"fault_writes_other": 0},
    # Of both kinds of store.
    data_leak.NAME: {"leaks": 0, "recorded": 80, "canaries": 22, "kept": 6},
    memory_pressure.NAME: {"victims_ended": 1, "others_ended": 0},
    corrupt_bundle.NAME: {
        "candidates_refused": 4,
        "generations_refused": 6,
        "starts_refused": 2,
        "taken": 0,
    },
}
"""What must hold on any machine; how soon answers come on a busy one is the drill's own question."""

MODULES = (fsync_error, disk_full, memory_pressure, corrupt_bundle, data_leak)
DRILLS = [pytest.param(module.DRILL, id=module.NAME) for module in MODULES]
CONTROLS = [
    pytest.param(module.DRILL, protection, id=f"{module.NAME}-{protection}")
    for module in MODULES
    for protection in module.DRILL.protections
]


def rehearsed(
    drill: Rehearsable, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    """The object that the drill prints. Generous in time: how busy the machine is must not decide."""
    build(tmp_path / "tiny")
    arguments = ["--json", "--bundle", str(tmp_path / "tiny"), "--journal", str(tmp_path / "journal")]
    drill.command([*arguments, "--products", "60", "--deadline-ms", "2000", *more])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    for word in ("run as root", "strace", "mounted"):
        if word in result.get("reason", "") and result["verdict"] == Verdict.INCONCLUSIVE:
            pytest.skip(result["reason"])
    return result


@pytest.mark.parametrize("drill", DRILLS)
def test_the_real_server_keeps_its_promises(
    drill: Rehearsable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rehearsed(drill, tmp_path, capsys)
    assert {name: result[name] for name in KEPT[drill.name]} == KEPT[drill.name], result
    assert (result["writes_lost"], result["writes_doubled"], result["epochs_monotone"]) == (0, 0, True)
    assert result["writes_acknowledged"] > 0


@pytest.mark.parametrize(("drill", "protection"), CONTROLS)
def test_without_a_protection_it_does_not(
    drill: Rehearsable, protection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rehearsed(drill, tmp_path, capsys, "--without", protection)
    assert result["verdict"] == Verdict.DEVIATED, result
