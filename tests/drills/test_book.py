from __future__ import annotations

import importlib

import pytest

from drills.book import DRILLS, Drill, UnknownDrill, find


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
        "retry_storm",
        "hot_key",
        "clock_jump",
    ]
    for drill in DRILLS:
        assert set(drill.describe()) == {"name", "hypothesis", "injection", "needs"}


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
def test_every_entry_runs_as_a_module_of_its_own_name(drill: Drill) -> None:
    module = importlib.import_module(drill.module)
    assert module.__name__ == f"drills.{drill.name}"
    assert drill.name == module.NAME
    assert callable(module.main)


def test_dashes_and_underscores_are_alike() -> None:
    assert find("deadline-storm") is find("deadline_storm")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownDrill, match=r"failover, hang, .*, clock_jump"):
        find("meteor")
