"""The drills of replicas that hang: scripted replicas, which know no lease, and short runs of real ones."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from drills import double_fault, hang, hang_in_transaction, standby_hang
from drills.experiment import Judgement, Verdict
from drills.failover import POSTGRESQL, SQLITE, Setup, Traffic
from drills.faults.process import StopPrimary
from drills.hang import LEASE, Hang
from drills.journal import read_history
from drills.judges.checks import FailoverLimits
from drills.rig.cluster import Cluster, ClusterPlan
from drills.rig.postgres import missing
from drills.rig.shop import synthetic_shop
from tests.drills.conftest import FAKE_COMMAND
from tests.fixtures.tiny_bundle import build

Scripted = Callable[..., ClusterPlan]

needs_core = pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)
GENEROUS = FailoverLimits(rto_ms=20_000, base_write_ms=20_000)
"""What must hold on any machine is judged here; how fast writes are back is the drill's own question."""


def setup(plan: ClusterPlan, folder: Path, store: str = SQLITE) -> Setup:
    return Setup(
        folder=folder,
        shop=synthetic_shop(50, 1, queries=10),
        plan=plan,
        runs=1,
        seed=1,
        traffic=Traffic(reads_per_s=20, writes_per_s=10, read_deadline_ms=5_000, write_deadline_ms=20_000),
        store=store,
    )


def told(
    module: Any,
    plan: ClusterPlan,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> tuple[int, dict[str, Any]]:
    """The drill's command line on scripted replicas: its exit code and the object it prints."""
    given = ["--json", "--runs", "1", "--bundle", str(plan.bundle), "--journal", str(folder), *arguments]
    code = module.main(given)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def scripted_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drills.failover.SERVER_COMMAND", FAKE_COMMAND)


@pytest.mark.usefixtures("scripted_command")
def test_where_nobody_replaces_a_primary_that_hangs_the_drill_deviates(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = told(hang, scripted(), tmp_path / "run", capsys, "--replicas", "2")
    assert code == 10, result
    assert set(result) == {"drill", "verdict", "reason", *hang.EMPTY}
    assert "no write was acknowledged by a new primary" in result["reason"]
    assert (result["woken"], result["killed"]) == (1, 0)


@pytest.mark.rehearsal
@pytest.mark.usefixtures("scripted_command")
def test_one_replica_that_is_left_carries_on_alone(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generous = ["--rto-ms", "20000", "--deadline-ms", "5000"]
    code, result = told(double_fault, scripted(), tmp_path / "run", capsys, *generous)
    assert code == 0, result
    assert set(result) == {"drill", "verdict", *double_fault.EMPTY}
    [fault] = read_history(tmp_path / "run" / "run-0001.jsonl").of("fault")
    assert fault["fault"] == "kill and hang"
    assert fault["stopped"] != fault["replica"]


@pytest.mark.usefixtures("scripted_command")
def test_without_a_spare_replica_a_double_fault_deviates(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = told(double_fault, scripted(), tmp_path / "run", capsys, "--without", "spare")
    assert code == 10, result
    assert result["read_errors"] > 0


@pytest.mark.rehearsal
@pytest.mark.usefixtures("scripted_command")
def test_hedged_reads_go_round_a_silent_standby(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generous = ["--read-p99-ms", "4000", "--deadline-ms", "5000"]
    code, result = told(standby_hang, scripted(), tmp_path / "run", capsys, *generous)
    assert code == 0, result
    assert set(result) == {"drill", "verdict", *standby_hang.EMPTY}
    assert result["reads_during"] > 0


@pytest.mark.usefixtures("scripted_command")
def test_without_detection_reads_wait_for_it(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = told(standby_hang, scripted(), tmp_path / "run", capsys, "--without", "detection")
    # A machine so busy that reads were slow before the fault as well can only say that it does not know.
    assert code in (10, 20), result
    assert "99th percentile" in result["reason"] or "ended with" in result["reason"]


def test_only_the_reigns_of_this_cluster_count(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("this replica is the primary of epoch 7\n", encoding="utf-8")
    cluster = Cluster(scripted(2), tmp_path)
    with (tmp_path / "a.log").open("a", encoding="utf-8") as log:
        log.write("this replica is the primary of epoch 1\n")
    assert hang.reigns(cluster) == [{"replica": "a", "epoch": 1}]


@pytest.mark.parametrize("module", [hang, hang_in_transaction, double_fault, standby_hang])
def test_a_missing_bundle_is_inconclusive_with_its_reason(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = module.main(["--json", "--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "run")])
    result = json.loads(capsys.readouterr().out)
    assert code == 20
    assert set(result) == {"drill", "verdict", "reason", *module.EMPTY}
    assert "no model bundle" in result["reason"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (hang, ["--replicas", "1"]),
        (hang, ["--without", "detection"]),
        (hang_in_transaction, ["--lease-ttl-ms", "0"]),
        (double_fault, ["--replicas", "2"]),
        (standby_hang, ["--without", "lease"]),
    ],
)
def test_bad_usage_exits_with_2(module: Any, arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    assert ended.value.code == 2


# --- real replicas ---------------------------------------------------------------------------------------

STORES = [SQLITE, pytest.param(POSTGRESQL, marks=pytest.mark.postgresql)]


def real(tmp_path: Path, store: str) -> Setup:
    if store == POSTGRESQL and (reason := missing()) is not None:
        pytest.skip(reason)
    build(tmp_path / "tiny")
    return setup(ClusterPlan(bundle=tmp_path / "tiny", replicas=3), tmp_path / "run", store)


def hanging(**changes: Any) -> Hang:
    """A lease that a machine busy with other things does not end."""
    given: dict[str, Any] = {"lease_ttl_ms": 2_000, "during_s": 6.0, **changes}
    return Hang("hang", "", StopPrimary, GENEROUS, **given)


def check_held(judgement: Judgement, details: dict[str, Any], store: str) -> None:
    assert judgement.verdict is Verdict.HELD, (judgement.reasons, details["each"])
    figures = judgement.figures
    assert (figures["writes_lost"], figures["writes_doubled"], figures["read_errors"]) == (0, 0, 0)
    # On one machine whoever takes over kills the holder; a server ends its sessions, and it wakes.
    assert (figures["killed"], figures["woken"]) == ((1, 0) if store == SQLITE else (0, 1))
    assert (figures["late_writes"], figures["late_acknowledged"]) == (5, 0)


@needs_core
@pytest.mark.rehearsal
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_a_primary_that_hangs_is_replaced_and_changes_nothing_later(tmp_path: Path, store: str) -> None:
    check_held(*hang.run(hanging(), real(tmp_path, store)), store)


@needs_core
@pytest.mark.rehearsal
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_so_is_one_that_hangs_inside_an_append(tmp_path: Path, store: str) -> None:
    check_held(*hang_in_transaction.run(hanging(), real(tmp_path, store)), store)


@needs_core
@pytest.mark.rehearsal
@pytest.mark.timeout(600)
def test_without_a_lease_that_ends_nobody_replaces_it(tmp_path: Path) -> None:
    judgement, details = hang.run(hanging(without=LEASE, during_s=3.0), real(tmp_path, SQLITE))
    assert judgement.verdict is Verdict.DEVIATED, details["each"]
    assert any("no write was acknowledged by a new primary" in reason for reason in judgement.reasons)
    assert (judgement.figures["killed"], judgement.figures["woken"]) == (0, 1)
