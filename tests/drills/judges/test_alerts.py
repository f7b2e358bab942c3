"""When the alert of a fault fired and ended, read from a history that is made up."""

from __future__ import annotations

from typing import Any

from drills.experiment import Experiment, Judgement, Verdict, conduct
from drills.journal import History, Journal
from drills.judges.alerts import judge_alerts, over_runs

DOWN = "MusterPrimaryDown"


def history(*alerts: tuple[str, str, float], fault_s: float = 2.0) -> History:
    told = [{"kind": "alert", "alert": name, "status": status, "at_s": at_s} for name, status, at_s in alerts]
    return History(({"kind": "fault", "at_s": fault_s}, *told))


def test_an_alert_that_fired_and_ended_is_timed_from_the_fault() -> None:
    figures, wrong = judge_alerts(history((DOWN, "firing", 2.5), (DOWN, "resolved", 5.0)), [DOWN])
    assert wrong == []
    assert figures == {DOWN: {"fired_ms": 500.0, "resolved_ms": 3000.0}, "others": []}


def test_one_that_fired_before_the_fault_tells_nothing_of_it() -> None:
    figures, wrong = judge_alerts(history((DOWN, "firing", 1.5), (DOWN, "resolved", 5.0)), [DOWN])
    assert wrong == [f"the alert {DOWN} did not fire"]
    assert figures[DOWN] == {"fired_ms": None, "resolved_ms": None}


def test_one_that_does_not_end_is_wrong() -> None:
    told = history((DOWN, "resolved", 2.2), (DOWN, "firing", 2.5), ("MusterStale", "firing", 3.0))
    figures, wrong = judge_alerts(told, [DOWN])
    assert wrong == [f"the alert {DOWN} fired and did not end"]
    assert figures["others"] == ["MusterStale"]


def test_without_a_fault_nothing_is_expected() -> None:
    assert judge_alerts(History(()), [DOWN]) == ({}, [])


def test_over_runs_the_median_and_the_slowest_are_told() -> None:
    each = [
        {DOWN: {"fired_ms": fired, "resolved_ms": None}, "others": [other]}
        for fired, other in ((400.0, "B"), (None, "A"), (900.0, "B"))
    ]
    assert over_runs(each) == {
        DOWN: {"fired_ms_p50": 650.0, "fired_ms_max": 900.0, "resolved_ms_p50": None},
        "others": ["A", "B"],
    }
    assert over_runs([{}]) == {}


class Watched:
    """Alerts that are told as soon as they are asked for. offsets: seconds after the run's begin."""

    expected = (DOWN,)

    def __init__(self, *told: tuple[str, float], required: bool = True) -> None:
        self._told = told
        self.required = required

    def settled(self, since_unix_s: float) -> list[dict[str, Any]]:
        return [
            {"alert": DOWN, "status": status, "labels": {}, "at_unix_s": since_unix_s + offset_s}
            for status, offset_s in self._told
        ]


class Nothing:
    name = "nothing"

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def inject(self, subject: None) -> dict[str, Any]:
        return {}

    def rollback(self, subject: None) -> None:
        return None


def conducted(journal: Journal, watched: Watched) -> Judgement:
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
    )
    return conduct(experiment, None, journal, alerts=watched, sleep=lambda pause_s: None)


def test_a_drill_whose_alert_stays_away_deviates(tmp_path: Any) -> None:
    with Journal(tmp_path / "run.jsonl") as journal:
        judgement = conducted(journal, Watched())
    assert judgement.verdict is Verdict.DEVIATED
    assert judgement.reasons == (f"the alert {DOWN} did not fire",)


def test_where_alerts_are_only_told_one_that_stays_away_is_a_figure(tmp_path: Any) -> None:
    with Journal(tmp_path / "run.jsonl") as journal:
        judgement = conducted(journal, Watched(required=False))
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["alerts"][DOWN] == {"fired_ms": None, "resolved_ms": None}


def test_a_drill_whose_alert_fires_and_ends_holds_and_keeps_it_in_the_history(tmp_path: Any) -> None:
    with Journal(tmp_path / "run.jsonl") as journal:
        judgement = conducted(journal, Watched(("firing", 5.0), ("resolved", 6.0)))
        kept = journal.history().of("alert")
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["reads"] == 1
    assert judgement.figures["alerts"][DOWN]["fired_ms"] is not None
    assert [(one["status"], one["at_s"]) for one in kept] == [("firing", 5.0), ("resolved", 6.0)]
