from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills import failover
from drills.experiment import Judgement, Verdict
from drills.failover import Traffic, main, revive, run
from drills.journal import Journal, read_history
from drills.judges.checks import FailoverLimits
from drills.rig.cluster import Cluster, ClusterPlan
from drills.rig.shop import synthetic_shop
from tests.drills.conftest import FAKE_COMMAND

Scripted = Callable[..., ClusterPlan]

KEYS = {
    "drill",
    "verdict",
    "runs",
    "rto_ms",
    "writes_acknowledged",
    "writes_lost",
    "writes_doubled",
    "reads",
    "read_errors",
    "epochs_monotone",
}


def rehearsed(plan: ClusterPlan, folder: Path, *, runs: int = 1, rto_ms: float = 5000.0) -> Judgement:
    """Generous in time: what is judged here is the judge, on whatever machine runs the tests."""
    judgement, _ = run(
        folder=folder,
        shop=synthetic_shop(50, 1, queries=10),
        plan=plan,
        runs=runs,
        seed=1,
        traffic=Traffic(reads_per_s=40, writes_per_s=20, read_deadline_ms=1000),
        limits=FailoverLimits(rto_ms=rto_ms),
    )
    return judgement


def test_replicas_that_keep_their_promises_hold(scripted: Scripted, tmp_path: Path) -> None:
    judgement = rehearsed(scripted(), tmp_path, runs=2)
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert judgement.figures["runs"] == 2
    assert judgement.figures["writes_acknowledged"] > 20
    history = read_history(tmp_path / "run-0002.jsonl")
    assert [record["fault"] for record in history.of("fault")] == ["kill"]
    assert (tmp_path / "timeline.png").stat().st_size > 0
    assert (tmp_path / "cluster" / "a.log").exists()
    assert not (tmp_path / "cluster" / "data").exists()


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        ({"lose_every": 10}, "are not in the log"),
        ({"double_every": 10}, "are in the log twice"),
        ({"keep_epoch": True}, "epoch falls from 2 to 1"),
        ({"fail_reads_every": 50}, "ended with ServiceFailed"),
        ({"takeover_s": 60.0}, "no write was acknowledged by a new primary"),
    ],
)
def test_a_broken_protection_makes_the_drill_deviate(
    scripted: Scripted, tmp_path: Path, switches: dict[str, Any], sentence: str
) -> None:
    judgement = rehearsed(scripted(2, **switches), tmp_path)
    assert judgement.verdict is not Verdict.HELD
    if judgement.verdict is Verdict.INCONCLUSIVE:
        # Reads that fail from the start do so before the fault as well.
        assert "fail_reads_every" in switches
        assert "before the fault" in judgement.reasons[0]
        return
    assert any(sentence in reason for reason in judgement.reasons), judgement.reasons


def test_a_slow_takeover_misses_its_limit(scripted: Scripted, tmp_path: Path) -> None:
    judgement = rehearsed(scripted(2, takeover_s=1.0), tmp_path, rto_ms=500.0)
    assert judgement.verdict is not Verdict.HELD
    assert any("more than 500 ms" in reason for reason in judgement.reasons)


def test_a_replica_that_ended_between_two_runs_is_started_again_and_noted(
    scripted: Scripted, tmp_path: Path
) -> None:
    with Cluster(scripted(2), tmp_path / "cluster") as cluster, Journal(tmp_path / "run.jsonl") as journal:
        cluster.start()
        ended = cluster.replicas[1]
        cluster.kill(ended)
        revive(cluster, journal)
        revive(cluster, journal)
        assert ended.running
        noted = [(record["replica"], record["code"]) for record in journal.history().of("revived")]
        assert noted == [(ended.name, -9)]


def test_the_command_prints_exactly_the_promised_object(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "SERVER_COMMAND", FAKE_COMMAND)
    bundle = scripted().bundle
    arguments = ["--runs", "1", "--json", "--replicas", "2", "--rto-ms", "5000", "--products", "20"]
    arguments += ["--deadline-ms", "5000"]
    code = main([*arguments, "--bundle", str(bundle), "--journal", str(tmp_path / "journal")])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(result) == KEYS
    assert (result["drill"], result["verdict"], result["runs"]) == ("failover", "held", 1)
    assert set(result["rto_ms"]) == {"min", "p50", "max"}
    stored = json.loads((tmp_path / "journal" / "result.json").read_text(encoding="utf-8"))
    assert {key: stored[key] for key in KEYS} == result


def test_a_missing_bundle_is_inconclusive_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--json", "--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "journal")])
    result = json.loads(capsys.readouterr().out)
    assert code == 20
    assert set(result) == {*KEYS, "reason"}
    assert "no model bundle" in result["reason"]


@pytest.mark.parametrize("arguments", [["--replicas", "1"], ["--runs", "0"], ["--nonsense"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
