from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from drills.experiment import (
    SETTLE_STEP_S,
    Experiment,
    Finding,
    Inconclusive,
    Judgement,
    Need,
    Probe,
    Verdict,
    conduct,
    in_words,
    quantile,
    worst,
)
from drills.journal import History, Journal


@dataclass
class Diary:
    """The subject of these tests: remembers what was done to it."""

    events: list[str] = field(default_factory=list)
    ill_in: str = ""
    asked: int = 0


class DiaryLoad:
    def __init__(self, diary: Diary, journal: Journal, seed: int) -> None:
        self.diary = diary

    def start(self) -> None:
        self.diary.events.append("load")

    def stop(self) -> None:
        self.diary.events.append("stop")


@dataclass(frozen=True)
class Break:
    name: str = "break"
    raises: BaseException | None = None

    def inject(self, diary: Diary) -> dict[str, Any]:
        diary.events.append("inject")
        if self.raises is not None:
            raise self.raises
        return {"replica": "a"}

    def rollback(self, diary: Diary) -> None:
        diary.events.append("rollback")


def is_well(diary: Diary) -> Finding:
    diary.asked += 1
    phase = ("before", "during", "after")[diary.asked - 1]
    diary.events.append(f"probe {phase}")
    return Finding(diary.ill_in != phase, "asked")


def held(history: History) -> Judgement:
    return Judgement(Verdict.HELD, {"records": len(history.records)})


EXPERIMENT: Experiment[Diary] = Experiment(
    name="diary",
    hypothesis="nothing breaks",
    seed=1,
    load=DiaryLoad,
    probes=(Probe("is well", is_well),),
    fault=Break(),
    judge=held,
    collect=lambda diary, journal: diary.events.append("collect"),
    before_s=0,
    during_s=0,
    after_s=0,
)


@pytest.fixture
def conducted(tmp_path: Path) -> Callable[[Experiment[Diary], Diary], Judgement]:
    def run(experiment: Experiment[Diary], diary: Diary) -> Judgement:
        with Journal(tmp_path / "run.jsonl", drill="diary", seed=1, settings={}) as journal:
            return conduct(experiment, diary, journal)

    return run


Conducted = Callable[[Experiment[Diary], Diary], Judgement]


def test_an_outcome_in_words_leaves_out_what_did_not_happen() -> None:
    assert in_words("3 dropped", ("noticed", None), ("back", 0.0)) == "3 dropped, back after 0.0 ms"


def test_an_experiment_goes_through_its_phases_in_order(conducted: Conducted) -> None:
    diary = Diary()
    assert conducted(EXPERIMENT, diary).verdict is Verdict.HELD
    assert diary.events == [
        "load", "probe before", "inject", "probe during", "rollback", "probe after", "stop", "collect",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ill_in", "verdict"),
    [("before", Verdict.INCONCLUSIVE), ("during", Verdict.DEVIATED), ("after", Verdict.DEVIATED)],
)
def test_a_probe_that_fails_decides_by_its_phase(conducted: Conducted, ill_in: str, verdict: Verdict) -> None:
    diary = Diary(ill_in=ill_in)
    judgement = conducted(EXPERIMENT, diary)
    assert judgement.verdict is verdict
    assert "'is well' did not hold" in judgement.reasons[0]
    assert "rollback" in diary.events
    assert ("inject" in diary.events) == (ill_in != "before")


def test_the_fault_waits_for_the_steady_state(conducted: Conducted) -> None:
    findings = iter([False, False, True, True, True])
    late = Probe[Diary]("is well", lambda diary: Finding(next(findings), "asked"))
    patient = replace(EXPERIMENT, probes=(late,), settle_s=2 * SETTLE_STEP_S)
    assert conducted(patient, Diary()).verdict is Verdict.HELD
    findings = iter([False, False, True])
    diary = Diary()
    assert conducted(replace(patient, settle_s=SETTLE_STEP_S), diary).verdict is Verdict.INCONCLUSIVE
    assert "inject" not in diary.events


def test_a_judge_that_found_a_deviation_is_not_overruled_by_healthy_probes(conducted: Conducted) -> None:
    experiment = replace(EXPERIMENT, judge=lambda history: Judgement(Verdict.DEVIATED, {}, ("lost",)))
    assert conducted(experiment, Diary()).verdict is Verdict.DEVIATED


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_the_rollback_and_the_end_of_the_load_run_whatever_happens(
    conducted: Conducted, error: BaseException
) -> None:
    diary = Diary()
    with pytest.raises(type(error)):
        conducted(replace(EXPERIMENT, fault=Break(raises=error)), diary)
    assert diary.events[-2:] == ["rollback", "stop"]


def test_a_fault_that_cannot_be_injected_is_never_held(conducted: Conducted) -> None:
    judgement = conducted(replace(EXPERIMENT, fault=Break(raises=Inconclusive("no root"))), Diary())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "no root" in judgement.reasons[0]


def test_a_missing_need_is_inconclusive_and_starts_nothing(conducted: Conducted) -> None:
    needs = (
        Need("strace", lambda: "strace is not installed: apt-get install strace"),
        Need("air", lambda: None),
    )
    diary = Diary()
    judgement = conducted(replace(EXPERIMENT, needs=needs), diary)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.reasons == ("strace is not installed: apt-get install strace",)
    assert diary.events == []


def test_a_probe_that_cannot_look_has_not_held(conducted: Conducted) -> None:
    def broken(diary: Diary) -> Finding:
        raise ConnectionError("gone")

    judgement = conducted(replace(EXPERIMENT, probes=(Probe("look", broken),)), Diary())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "ConnectionError: gone" in judgement.reasons[0]


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.HELD, 0), (Verdict.DEVIATED, 10), (Verdict.INCONCLUSIVE, 20)]
)
def test_each_verdict_has_its_exit_code(verdict: Verdict, code: int) -> None:
    assert verdict.exit_code == code


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], Verdict.INCONCLUSIVE),
        ([Verdict.HELD], Verdict.HELD),
        ([Verdict.HELD, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.INCONCLUSIVE, Verdict.DEVIATED, Verdict.HELD], Verdict.DEVIATED),
    ],
)
def test_the_worst_of_several_verdicts(verdicts: list[Verdict], verdict: Verdict) -> None:
    assert worst(verdicts) is verdict


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0], 0.5, 1.0),
        ([4, 1, 3, 2], 0.5, 2),
        ([1, 2, 3], 0.5, 2),
        (list(range(1, 21)), 0.95, 19),
        ([1, 2], 1.0, 2),
    ],
)
def test_quantiles_are_values_that_occurred(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected
