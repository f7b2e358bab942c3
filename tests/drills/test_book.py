from __future__ import annotations

import importlib

import pytest

from drills.book import DRILLS, Drill, UnknownDrill, find, reference
from drills.gate import load_profile
from drills.rig.cluster import ROOT


def test_the_book_holds_the_drills_and_describes_them() -> None:
    assert [drill.name for drill in DRILLS] == [
        "failover",
        "hang",
        "hang_in_transaction",
        "standby_hang",
        "double_fault",
        "rolling_restart",
        "deadline_storm",
        "bad_deploy",
        "partition",
        "store_down",
        "standby_lag",
        "latency",
        "loss",
        "oversized_payload",
        "poison_request",
        "slow_disk",
        "disk_full",
        "fsync_error",
        "memory_pressure",
        "cpu_starvation",
        "corrupt_bundle",
        "cold_start",
        "retry_storm",
        "hot_key",
        "clock_jump",
        "noisy_data",
        "traffic_surge",
        "model_drift",
        "data_leak",
        "auth_attack",
        "tls_expiry",
    ]
    for drill in DRILLS:
        assert set(drill.describe()) == {
            "name",
            "hypothesis",
            "injection",
            "needs",
            "control",
            "alerts",
            "alerts_within_s",
            "silent",
            "target",
        }


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
def test_every_entry_runs_as_a_module_of_its_own_name(drill: Drill) -> None:
    module = importlib.import_module(drill.module)
    assert module.__name__ == f"drills.{drill.name}"
    assert drill.name == module.NAME
    assert callable(module.main)


def test_dashes_and_underscores_are_alike() -> None:
    assert find("deadline-storm") is find("deadline_storm")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownDrill, match=r"failover, hang, .*, model_drift"):
        find("meteor")


def test_the_page_about_drills_holds_the_table_of_the_book() -> None:
    page = (ROOT / "docs/drills.md").read_text(encoding="utf-8")
    assert reference() in page, "put what `python -m drills.book` prints into docs/drills.md"


def test_every_drill_is_in_the_profile_that_runs_all() -> None:
    assert {task.drill for task in load_profile("book")} == {drill.name for drill in DRILLS}


@pytest.mark.parametrize("drill", [drill for drill in DRILLS if drill.control], ids=lambda drill: drill.name)
def test_a_control_is_an_option_of_its_drill(drill: Drill, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        drill.run([*drill.control.split(), "--help"])
    assert ended.value.code == 0
    option, protection = drill.control.split()
    told = capsys.readouterr().out
    assert option in told and protection in told
