from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.faults import clock
from drills.faults.clock import (
    PRIMARY,
    STANDBY,
    MoveCallersClock,
    MoveClock,
    find_library,
    library_need,
    movable,
)
from drills.rig.cluster import ClusterPlan


def test_the_library_is_found_where_distributions_put_it_or_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_FOLDERS", (tmp_path,))
    assert find_library() is None
    assert "apt-get install libfaketime" in (library_need(None).missing() or "")
    path = tmp_path / "x86_64-linux-gnu" / clock.LIBRARY
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_library() == path
    assert library_need(None).missing() is None
    assert "--libfaketime FILE" in (library_need(tmp_path / "none").missing() or "")
    assert find_library(path) == path.resolve()


def test_one_replicas_clock_is_moved_and_moved_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SETTLE_S", 0.0)
    plan = movable(ClusterPlan(bundle=tmp_path, replicas=2), tmp_path / "clocks", tmp_path / "lib.so")
    assert plan.own_environment["a"]["FAKETIME_TIMESTAMP_FILE"] == str(tmp_path / "clocks" / "a")
    assert plan.own_environment["b"]["LD_PRELOAD"] == str(tmp_path / "lib.so")
    assert plan.own_environment["b"]["FAKETIME_DONT_FAKE_MONOTONIC"] == "1"
    primary, standby = (SimpleNamespace(name=name, running=True) for name in "ab")
    cluster = SimpleNamespace(replicas=[primary, standby], primary=lambda: primary)
    subject: Any = SimpleNamespace(cluster=cluster)

    def told() -> list[str]:
        return [(tmp_path / "clocks" / name).read_text() for name in "ab"]

    assert told() == ["+0\n", "+0\n"]
    for whose, offset_s, moved in (
        (PRIMARY, 3600, ["+3600\n", "+0\n"]),
        (STANDBY, -3600, ["+0\n", "-3600\n"]),
    ):
        fault = MoveClock(whose, offset_s, tmp_path / "clocks")
        fault.inject(subject)
        assert told() == moved
        fault.rollback(subject)
        assert told() == ["+0\n", "+0\n"]


def test_the_callers_clock_is_moved_and_moved_back() -> None:
    fault = MoveCallersClock(-3600)
    subject: Any = None
    assert fault.skew_s() == 0.0
    fault.inject(subject)
    assert fault.skew_s() == -3600.0
    fault.rollback(subject)
    assert fault.skew_s() == 0.0
