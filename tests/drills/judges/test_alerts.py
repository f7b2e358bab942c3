"""When the alert of a fault fired and ended, read from a history that is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drills.experiment import AlertFindings, Experiment, Judgement, Verdict, conduct
from drills.journal import History, Journal
from drills.judges.alerts import Due, Watched, judge_alerts, over_parts, over_runs, sentences

DOWN = "MusterPrimaryDown"
STALE = "MusterStale"
WATCHED = Watched(due=(Due(DOWN, 3.0),), aside=(STALE,))


def history(*alerts: tuple[str, str, float], fault_s: float = 2.0, stall_s: float = 0.0) -> History:
    told = [{"kind": "alert", "alert": name, "status": status, "at_s": at_s} for name, status, at_s in alerts]
    read = {"kind": "read", "intended_s": 1.0, "sent_s": 1.0 + stall_s}
    return History((read, {"kind": "fault", "at_s": fault_s}, *told))


def test_an_alert_that_fired_and_ended_is_timed_from_the_fault() -> None:
    found = judge_alerts(history((DOWN, "firing", 2.5), (DOWN, "resolved", 5.0)), WATCHED)
    assert found == AlertFindings(
        {
            DOWN: {"fired_ms": 500.0, "resolved_ms": 3000.0, "within_ms": 3000.0},
            "others": [],
            "unforeseen": [],
        }
    )


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        ([], f"the alert {DOWN} did not fire"),
        (
            [(DOWN, "firing", 5.5), (DOWN, "resolved", 6.0)],
            f"the alert {DOWN} fired 3500 ms after the fault, not within 3000 ms",
        ),
        ([(DOWN, "firing", 2.5)], f"the alert {DOWN} fired and did not end"),
        (
            [(DOWN, "firing", 1.0), (DOWN, "resolved", 1.5), (DOWN, "resolved", 2.2)],
            f"the alert {DOWN} did not fire",
        ),
    ],
)
def test_one_that_stays_away_comes_late_or_stays_on_deviates(
    alerts: list[tuple[str, str, float]], problem: str
) -> None:
    found = judge_alerts(history(*alerts), WATCHED)
    assert (found.deviations, found.doubts) == ((problem,), ())
    stalled = judge_alerts(history(*alerts, stall_s=0.3), WATCHED)
    assert stalled.deviations == ()
    assert "waiting for up to 300 ms" in stalled.doubts[0]


def test_of_one_that_fired_before_the_fault_nothing_is_known() -> None:
    found = judge_alerts(history((DOWN, "firing", 1.5), (DOWN, "resolved", 5.0)), WATCHED)
    assert found.deviations == ()
    assert "fired before the fault" in found.doubts[0]


def test_what_the_book_does_not_count_with_is_told_apart() -> None:
    fired = (STALE, "MusterDrift", "MusterBudgetBurnsSlowly")
    found = judge_alerts(history(*((name, "firing", 2.2) for name in fired)), replace(WATCHED, due=()))
    assert found.figures == {"others": sorted(fired), "unforeseen": ["MusterDrift"]}
    assert (found.deviations, found.doubts) == ((), ())


def test_what_did_not_come_about_need_not_be_told_of() -> None:
    found = judge_alerts(history(), WATCHED, excuse="quality was kept")
    assert (found.deviations, found.doubts) == ((), ())
    assert found.figures["not_due"] == "quality was kept"
    assert sentences(over_runs([found.figures]))[-1] == "none is due: quality was kept"


def test_without_a_fault_nothing_is_due() -> None:
    assert judge_alerts(History(()), WATCHED) == AlertFindings({})


def test_over_runs_and_parts_the_median_and_the_slowest_are_told() -> None:
    each: list[dict[str, Any]] = [
        {
            DOWN: {"fired_ms": fired, "resolved_ms": None, "within_ms": 3000.0},
            "others": [other],
            "unforeseen": [],
        }
        for fired, other in ((400.0, "B"), (None, "A"), (900.0, "B"))
    ]
    told: dict[str, Any] = {
        DOWN: {
            "fired_ms_p50": 650.0,
            "fired_ms_max": 900.0,
            "resolved_ms_p50": None,
            "within_ms": 3000.0,
            "silent_runs": 1,
        },
        "others": ["A", "B"],
        "unforeseen": [],
    }
    assert over_runs(each) == told
    assert over_runs([{}]) == over_parts([]) == {}
    twice = over_parts([told, told])
    assert twice == {**told, DOWN: {**told[DOWN], "silent_runs": 2}}
    assert sentences(told) == [
        f"{DOWN} fired 650 ms after the fault (limit 3000 ms), did not end",
        "as well: A, B",
    ]
    assert sentences({"others": [], "unforeseen": []}) == ["none fired, and none is due"]


class Watching:
    """Alerts that are told as soon as they are asked for. offsets: seconds after the run's begin."""

    def __init__(self, *told: tuple[str, float], required: bool = True) -> None:
        self._told = told
        self.required = required

    def settled(self, since_unix_s: float) -> list[dict[str, Any]]:
        return [
            {"alert": DOWN, "status": status, "labels": {}, "at_unix_s": since_unix_s + offset_s}
            for status, offset_s in self._told
        ]

    def judged(self, history: History, excuse: str | None) -> AlertFindings:
        return judge_alerts(history, replace(WATCHED, due=(Due(DOWN, 60.0),)), excuse=excuse)


class Nothing:
    name = "nothing"

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def inject(self, subject: None) -> dict[str, Any]:
        return {}

    def rollback(self, subject: None) -> None:
        return None


def conducted(tmp_path: Path, watching: Watching, excuse: str | None = None) -> tuple[Judgement, History]:
    experiment: Experiment[None] = Experiment(
        name="nothing",
        hypothesis="nothing happens",
        seed=1,
        load=lambda subject, journal, seed: Nothing(),
        probes=(),
        fault=Nothing(),
        judge=lambda told: Judgement(Verdict.HELD, {"reads": 1}),
        collect=lambda subject, journal: None,
        before_s=0.0,
        during_s=0.0,
        after_s=0.0,
        alert_excuse=lambda history: excuse,
    )
    with Journal(tmp_path / "run.jsonl") as journal:
        judgement = conduct(experiment, None, journal, alerts=watching, sleep=lambda pause_s: None)
        return judgement, journal.history()


def test_a_drill_whose_alert_stays_away_deviates_unless_there_is_an_excuse(tmp_path: Path) -> None:
    judgement, _ = conducted(tmp_path, Watching())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.reasons == (f"the alert {DOWN} did not fire",)
    assert conducted(tmp_path, Watching(), "nothing was wrong")[0].verdict is Verdict.HELD


def test_one_of_whose_alert_nothing_is_known_is_inconclusive(tmp_path: Path) -> None:
    judgement, _ = conducted(tmp_path, Watching(("firing", -1.0), ("resolved", 5.0)))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "fired before the fault" in judgement.reasons[0]


def test_where_alerts_do_not_count_one_that_stays_away_is_a_figure(tmp_path: Path) -> None:
    judgement, _ = conducted(tmp_path, Watching(required=False))
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["alerts"][DOWN]["fired_ms"] is None


def test_a_drill_whose_alert_fires_and_ends_holds_and_keeps_it_in_the_history(tmp_path: Path) -> None:
    judgement, history = conducted(tmp_path, Watching(("firing", 5.0), ("resolved", 6.0)))
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["reads"] == 1
    assert judgement.figures["alerts"][DOWN]["fired_ms"] is not None
    assert [(one["status"], one["at_s"]) for one in history.of("alert")] == [
        ("firing", 5.0),
        ("resolved", 6.0),
    ]
