from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills.experiment import Judgement, Verdict
from drills.failover import SQLITE, Setup, Traffic
from drills.journal import History, Record, read_history
from drills.judges.promises import over_runs
from drills.rig.cluster import ClusterPlan
from drills.rig.shop import synthetic_shop
from drills.rolling_restart import DRILL, EMPTY, TURNS, judge_rolling_restart, main
from tests.drills.conftest import FAKE_COMMAND
from tests.fixtures.tiny_bundle import build

Scripted = Callable[..., ClusterPlan]


def rehearsed(plan: ClusterPlan, folder: Path, without: str | None = None) -> Judgement:
    """Generous in time: how busy the machine is must not decide."""
    setup = Setup(
        folder=folder,
        shop=synthetic_shop(50, 1, queries=10),
        plan=plan,
        runs=1,
        seed=1,
        traffic=Traffic(reads_per_s=20, writes_per_s=10, read_deadline_ms=5_000, write_deadline_ms=20_000),
    )
    given = Namespace(bundle=plan.bundle, store=SQLITE, without=without, part="")
    judgement, _ = DRILL.run(given, setup)
    return judgement


def test_scripted_replicas_are_restarted_in_turn_and_nothing_fails(
    scripted: Scripted, tmp_path: Path
) -> None:
    judgement = rehearsed(scripted(), tmp_path)
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert (judgement.figures["restarts"], judgement.figures["transfers"]) == (3, 1)
    [fault] = read_history(tmp_path / "run-0001.jsonl").of("fault")
    assert [step["step"] for step in fault["steps"]] == ["restart", "transfer", "restart", "restart"]
    assert fault["steps"][1]["from"] != fault["steps"][1]["to"]


def test_all_replicas_at_once_are_too_many(scripted: Scripted, tmp_path: Path) -> None:
    judgement = rehearsed(scripted(2), tmp_path, without=TURNS)
    assert judgement.verdict is Verdict.DEVIATED, judgement.reasons
    [fault] = read_history(tmp_path / "run-0001.jsonl").of("fault")
    assert [step["step"] for step in fault["steps"]] == ["restart", "restart"]


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [({"drain_code": 3}, "ended with code 3"), ({"keep_lease": True}, "no other replica took the lease")],
)
def test_a_replica_that_does_not_leave_well_makes_the_drill_deviate(
    scripted: Scripted, tmp_path: Path, switches: dict[str, Any], sentence: str
) -> None:
    judgement = rehearsed(scripted(2, **switches), tmp_path)
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


@pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)
@pytest.mark.timeout(600)
def test_real_replicas_are_restarted_in_turn_and_nothing_fails(tmp_path: Path) -> None:
    build(tmp_path / "tiny")
    # A long lease: on a busy machine a short one replaces healthy primaries, which is not what is asked here.
    plan = ClusterPlan(bundle=tmp_path / "tiny", replicas=3, settings={"lease": {"ttl_ms": 5_000}})
    judgement = rehearsed(plan, tmp_path / "journal")
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert (judgement.figures["restarts"], judgement.figures["transfers"]) == (3, 1)
    assert judgement.figures["reigns_ended"] >= 1


def history(*more: Record, steps: list[Record] | None = None) -> History:
    """A turn in which all went well, and what a test adds."""
    steps = steps or [{"step": "restart", "replica": "a", "was_primary": True}]
    return History(
        (
            {"kind": "steady", "at_s": 0.0},
            {"kind": "fault", "at_s": 1.0, "fault": "restart", "steps": steps},
            call("read"),
            call("write", event_id="e1", sequence=1, epoch=1),
            {"kind": "log", "sequence": 1, "epoch": 1, "event_id": "e1"},
            {"kind": "log_end", "head": 1},
            *more,
        )
    )


def call(kind: str, status: str = "OK", *, late_s: float = 0.0, **fields: Any) -> Record:
    return {
        "kind": kind,
        "intended_s": 2.0,
        "sent_s": 2.0 + late_s,
        "done_s": 2.25 + late_s,
        "status": status,
        "detail": "scripted",
        **fields,
    }


def test_the_judge_holds_a_turn_without_errors() -> None:
    judgement = judge_rolling_restart(history())
    assert judgement.verdict is Verdict.HELD
    assert judgement.figures["slowest_write_ms"] == 250.0
    assert set(judgement.figures) == set(EMPTY) - {"runs"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            [call("write", "Unavailable", event_id="e2")],
            "a write at 2.000 s ended with Unavailable",
        ),
        ([call("read", "DeadlineExceeded")], "a read at 2.000 s ended with DeadlineExceeded"),
        ([call("read", "ServiceFailed", late_s=0.5)], "ended with ServiceFailed"),
        ([call("write", event_id="e9", sequence=9, epoch=1)], "not in the log"),
        ([{"kind": "log", "sequence": 2, "epoch": 0, "event_id": "e2"}], "epoch falls"),
    ],
)
def test_the_judge_names_what_failed(more: list[Record], sentence: str) -> None:
    judgement = judge_rolling_restart(history(*more))
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_time_outs_on_a_machine_that_stalls_are_a_doubt() -> None:
    judgement = judge_rolling_restart(history(call("read", "DeadlineExceeded", late_s=0.5)))
    assert judgement.verdict is Verdict.INCONCLUSIVE and "too busy" in judgement.reasons[0]


def test_without_a_restart_or_without_the_log_nothing_is_known() -> None:
    assert judge_rolling_restart(History(())).verdict is Verdict.INCONCLUSIVE
    records = tuple(record for record in history().records if record["kind"] != "log_end")
    assert judge_rolling_restart(History(records)).verdict is Verdict.INCONCLUSIVE


def test_a_step_that_failed_is_a_deviation() -> None:
    judgement = judge_rolling_restart(history(steps=[{"step": "failed", "problem": "b did not come back"}]))
    assert judgement.verdict is Verdict.DEVIATED and "b did not come back" in judgement.reasons


def test_runs_are_summed_and_the_worst_decides() -> None:
    good = judge_rolling_restart(history())
    bad = judge_rolling_restart(history(call("read", "ServiceFailed")))
    both = over_runs([good, bad], EMPTY)
    assert both.verdict is Verdict.DEVIATED
    assert (both.figures["runs"], both.figures["restarts"], both.figures["read_errors"]) == (2, 2, 1)
    assert both.reasons[0].startswith("run 2: ")


def test_json_is_one_object_with_the_documented_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drills.failover.SERVER_COMMAND", FAKE_COMMAND)
    bundle = scripted().bundle
    given = ["--json", "--bundle", str(bundle), "--replicas", "2", "--deadline-ms", "5000"]
    code = main([*given, "--journal", str(tmp_path / "journal")])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    assert set(result) == {"drill", "verdict", *EMPTY}


@pytest.mark.parametrize("arguments", [["--replicas", "1"], ["--runs", "0"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
