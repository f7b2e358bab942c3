"""The evaluator beside a drill: a process of its own that says what fired since a run began."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.journal import History
from drills.judges.alerts import Due, Watched
from drills.rig.alerts import AlertWatch, mode
from tests.muster.alerts.listener import Endpoint

NOT_SERVED = "MusterReadsNotServed"
WATCHED = Watched(due=(Due(NOT_SERVED, 5.0),))


def test_what_fires_and_ends_is_told_to_the_run_in_which_it_did(tmp_path: Path) -> None:
    with Endpoint("muster_serving 0\n") as endpoint:
        watch = AlertWatch(WATCHED, [endpoint.address], tmp_path)
        try:
            began_s = time.time()
            end_s = time.monotonic() + 30.0
            while not watch.changes(began_s) and time.monotonic() < end_s:
                time.sleep(0.05)
            endpoint.page = "muster_serving 1\n"
            told = watch.settled(began_s)
            later = watch.changes(told[-1]["at_unix_s"] + 1.0)
        finally:
            watch.close()
            watch.close()
    assert [(one["alert"], one["status"]) for one in told] == [
        (NOT_SERVED, "firing"),
        (NOT_SERVED, "resolved"),
    ]
    assert told[0]["labels"]["instance"] == endpoint.address
    assert told[0]["at_unix_s"] >= began_s
    assert later == []


def test_an_evaluator_that_is_gone_is_not_waited_for_and_tells_nothing(tmp_path: Path) -> None:
    watch = AlertWatch(WATCHED, ["127.0.0.1:1"], tmp_path)
    watch.close()
    assert watch.settled(0.0) == []
    found = watch.judged(History(({"kind": "fault", "at_s": 1.0},)), None)
    assert found.deviations == ()
    assert "has ended" in found.doubts[0]


def test_an_evaluator_that_does_not_begin_leaves_the_drill_in_doubt(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="did not begin"):
        AlertWatch(WATCHED, ["nowhere"], tmp_path)


def test_alerts_count_unless_the_environment_or_a_control_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_DRILL_ALERTS", raising=False)
    assert mode() == "require"
    for word, watched, required in (
        ("", WATCHED, True),
        ("ignore", WATCHED, False),
        ("", replace(WATCHED, counts=False), False),
    ):
        monkeypatch.setenv("MUSTER_DRILL_ALERTS", word)
        watch = AlertWatch(watched, ["127.0.0.1:1"], tmp_path)
        watch.close()
        assert watch.required is required
    monkeypatch.setenv("MUSTER_DRILL_ALERTS", "perhaps")
    with pytest.raises(Inconclusive, match="require, ignore, off"):
        mode()
