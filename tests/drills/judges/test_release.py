"""The judge of deploys, on made-up histories."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.journal import History
from drills.judges.release import DeployLimits, judge_deploy, judge_deploy_runs

LIMITS = DeployLimits(rolled_back_s=10.0)


def fault(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "fault",
        "at_s": 2.0,
        "exit_code": 10,
        "phases": [
            {"phase": "started", "after_s": 0.1},
            {"phase": "canary", "after_s": 5.0},
            {"phase": "rolled_back", "after_s": 8.5},
        ],
        "windows": {"canary": {"canary": {"answered": 31}}},
        "reason": "latency: too slow",
        "complaint": "",
        "bundle": "bad-1",
        "previous_bundle": "good-1",
        **changes,
    }


def bundles(serving: str = "good-1", candidate: str = "") -> dict[str, Any]:
    return {"kind": "bundles", "at_s": 9.0, "replica": "a", "serving": serving, "candidate": candidate}


def read(status: str = "OK") -> dict[str, Any]:
    return {"kind": "read", "at_s": 3.0, "done_s": 3.0, "status": status}


def judged(*records: dict[str, Any]) -> Judgement:
    return judge_deploy(History(records), LIMITS)


def test_a_bundle_that_is_left_in_time_without_a_failed_read_holds() -> None:
    found = judged(read(), fault(), read(), bundles())
    assert found.verdict is Verdict.HELD
    assert found.figures["canary_to_rolled_back_s"] == 3.5
    assert (found.figures["reads"], found.figures["reads_by_bad_bundle"]) == (2, 31)


late = [{"phase": "canary", "after_s": 5.0}, {"phase": "rolled_back", "after_s": 15.5}]
done = [{"phase": "canary", "after_s": 5.0}, {"phase": "done", "after_s": 9.0}]


@pytest.mark.parametrize(
    ("records", "word"),
    [
        ((fault(phases=late), bundles()), "rolled back after 10.5 s"),
        ((fault(phases=done, exit_code=0), bundles("bad-1")), "ended with code 0 in done"),
        ((read("Unavailable"), fault(), bundles()), "1 of 1 reads failed"),
        ((fault(), bundles("bad-1")), "serves bad-1"),
        ((fault(), bundles(candidate="bad-1")), "holds bad-1"),
    ],
)
def test_each_way_to_fail_deviates_and_is_named(records: tuple[dict[str, Any], ...], word: str) -> None:
    found = judged(*records)
    assert found.verdict is Verdict.DEVIATED
    assert word in "; ".join(found.reasons)


early = [{"phase": "started", "after_s": 0.1}, {"phase": "rolled_back", "after_s": 3.0}]
silent = {"kind": "bundles_failed", "at_s": 9.0, "replica": "b", "detail": "gone"}


@pytest.mark.parametrize(
    "records",
    [
        (read(),),
        (fault(phases=early, windows={}), bundles()),
        (fault(),),
        (fault(), bundles(), silent),
    ],
)
def test_what_cannot_be_told_is_inconclusive(records: tuple[dict[str, Any], ...]) -> None:
    assert judged(*records).verdict is Verdict.INCONCLUSIVE


def test_over_all_deploys_the_worst_verdict_counts_and_times_are_spread() -> None:
    good, bad = judged(fault(), bundles()), judged(fault(phases=late), bundles())
    found = judge_deploy_runs([good, bad])
    assert found.verdict is Verdict.DEVIATED
    assert found.figures["canary_to_rolled_back_s"] == {"min": 3.5, "p50": 3.5, "max": 10.5}
    assert (found.figures["runs"], found.figures["rolled_back"]) == (2, 2)
    assert judge_deploy_runs([]).verdict is Verdict.INCONCLUSIVE
