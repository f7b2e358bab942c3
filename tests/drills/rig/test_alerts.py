"""The evaluator beside a drill: a process of its own that says what fired since a run began."""

from __future__ import annotations

import time
from pathlib import Path

from drills.rig.alerts import AlertWatch
from tests.muster.alerts.listener import Endpoint

NOT_SERVED = "MusterReadsNotServed"


def test_what_fires_and_ends_is_told_to_the_run_in_which_it_did(tmp_path: Path) -> None:
    with Endpoint("muster_serving 0\n") as endpoint:
        watch = AlertWatch((NOT_SERVED,), [endpoint.address], tmp_path)
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


def test_an_evaluator_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    watch = AlertWatch((NOT_SERVED,), ["127.0.0.1:1"], tmp_path)
    watch.close()
    assert watch.settled(0.0) == []
