"""Drills against a running service: real replicas with a bundle that needs no training, and what their
settings allow."""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drills import deadline_storm, latency, retry_storm, rolling_restart
from drills.book import DRILLS
from drills.experiment import Inconclusive
from drills.rig.cluster import ROOT, Cluster, ClusterError, ClusterPlan
from drills.rig.service import Service, abort, asked_of_service, with_leave
from drills.rig.shop import fill, synthetic_shop
from tests.fixtures.tiny_bundle import build

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)
GENEROUS = ["--deadline-ms", "5000"]
"""What must hold on any machine; how fast a busy one is must not decide."""

PATIENT = ["--deadline-ms", "500"]
"""Of floods, whose steady state is read from the last second."""


def started(folder: Path, **drills: Any) -> Cluster:
    build(folder / "tiny")
    # A change of primary that nobody asked for is another drill's.
    settings = {"drills": drills, "lease": {"ttl_ms": 1000}}
    return Cluster(ClusterPlan(bundle=folder / "tiny", replicas=2, settings=settings), folder / "cluster")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas that allow much."""
    much = {"allowed": "flood,latency,malformed,transfer", "blast_radius_replicas": 2, "rate_max_per_s": 100}
    with started(tmp_path_factory.mktemp("service"), **much) as cluster:
        cluster.start()
        products = list(synthetic_shop(60, 1, queries=10).products())
        fill(cluster, products, total=len(products), progress=False)
        yield cluster


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas, of which one latency drill may harm one."""
    with started(tmp_path_factory.mktemp("closed"), allowed="latency") as cluster:
        cluster.start()
        yield cluster


def told(
    name: str, cluster: Cluster, folder: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    """What the drill prints; its exit code must agree."""
    target = ",".join(cluster.addresses)
    arguments = ["--json", "--target", target, "--journal", str(folder), "--products", "60", *more]
    code = importlib.import_module(f"drills.{name}").main(arguments)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == {"held": 0, "deviated": 10, "inconclusive": 20}[result["verdict"]]
    return result


def under_way(cluster: Cluster) -> list[str]:
    from muster.v1 import admin_pb2_grpc, drill_pb2

    stubs = [admin_pb2_grpc.AdminServiceStub(cluster.channel(replica)) for replica in cluster.replicas]
    return [stub.DrillStatus(drill_pb2.DrillStatusRequest(), timeout=5).drill for stub in stubs]


def test_the_lease_of_a_running_service_goes_round(
    service: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch, head = (getattr(service.status(service.primary()), name) for name in ("epoch", "head_sequence"))
    result = told("rolling_restart", service, tmp_path, capsys, *GENEROUS, "--reads", "20")
    assert result["verdict"] == "held", result
    assert (result["transfers"], result["restarts"], result["read_errors"]) == (2, 0, 0)
    after = service.status(service.wait_primary(10.0))
    assert after.epoch == epoch + 2
    assert after.head_sequence == head, "nothing was written into its catalogue"
    assert under_way(service) == ["", ""]
    assert set(result) - {"reason"} == {"drill", "verdict", *rolling_restart.EMPTY}


def test_a_flood_is_no_larger_than_its_operators_allow(
    service: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = told("deadline_storm", service, tmp_path, capsys, *PATIENT, "--duration", "1")
    assert result["verdict"] == "held", result
    assert 0 < result["offered"] < 100 * 1.5
    stored = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["details"]
    assert stored["harmed"] == 2 and stored["rate_per_s"] < 100
    assert set(result) - {"reason"} == {"drill", "verdict", *deadline_storm.EMPTY}


def test_another_operator_aborts_a_drill(service: Cluster, tmp_path: Path) -> None:
    target = ",".join(service.addresses)
    arguments = ["--json", "--target", target, "--journal", str(tmp_path), "--products", "60", *PATIENT]
    drill = subprocess.Popen(
        [sys.executable, "-m", "drills.deadline_storm", *arguments, "--duration", "60"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        service.wait("a drill is under way", 30.0, lambda: under_way(service) == ["deadline_storm"] * 2)
        with pytest.raises(Inconclusive, match=r"deadline_storm \(.*is under way"):
            told_leave(service, "hot_key")
        told = subprocess.run(
            [sys.executable, "-m", "muster.cli", "drill", "abort", "--target", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.startswith("aborted: ")
        out, _ = drill.communicate(timeout=30)
    finally:
        drill.kill()
        drill.wait()
    assert drill.returncode == 20
    assert "aborted by an operator" in json.loads(out)["reason"]
    assert under_way(service) == ["", ""]


def told_leave(cluster: Cluster, drill: str) -> None:
    with with_leave(cluster.addresses, drill, "flood", replicas=1, rate_per_s=1.0):
        pass


def test_where_none_is_under_way_there_is_nothing_to_abort(service: Cluster) -> None:
    found = Service(service.addresses)
    assert abort(found) == []
    found.close()


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("hot_key", [], "do not allow 'flood'"),
        ("poison_request", [], "do not allow 'malformed'"),
        (
            "latency",
            ["--slowed", "all"],
            "all 2 replicas would be harmed, and drills.blast_radius_replicas is 1",
        ),
        ("oversized_payload", ["--without", "limit"], "leave out --target"),
    ],
)
def test_what_is_not_allowed_is_said_and_not_done(
    closed: Cluster,
    name: str,
    more: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = told(name, closed, tmp_path, capsys, *more)
    assert result["verdict"] == "inconclusive" and sentence in result["reason"]
    assert "DrillRefused" not in closed.replicas[0].log_text()


def test_a_replica_refuses_a_drill_that_does_not_look_first(closed: Cluster) -> None:
    with pytest.raises(Inconclusive, match=r"replica a refuses: .*drills.allowed: latency"):
        told_leave(closed, "hot_key")


def test_a_service_that_is_not_there_is_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = latency.main(["--json", "--target", "127.0.0.1:1", "--journal", str(tmp_path)])
    assert code == 20
    assert "127.0.0.1:1 does not answer" in json.loads(capsys.readouterr().out)["reason"]


def test_a_service_is_never_signalled(service: Cluster) -> None:
    found = Service(service.addresses)
    with pytest.raises(ClusterError, match="not this drill's to signal"):
        found.signal(found.replicas[0], signal.SIGKILL)
    found.restart(found.replicas[0])
    found.close()
    assert service.replicas[0].running


def test_the_book_says_which_drills_take_a_target() -> None:
    for drill in DRILLS:
        module = importlib.import_module(drill.module)
        taken = "run_on_service" in vars(module) or getattr(
            getattr(module, "DRILL", None), "on_service", None
        )
        assert bool(taken) == drill.target, drill.name


def test_what_is_asked_stays_within_what_is_allowed(closed: Cluster) -> None:
    options = latency.DRILL.parser()
    given = options.parse_args(["--target", ",".join(closed.addresses), "--rate", "1000", "--products", "60"])
    asked = asked_of_service(given, "latency")
    assert (asked.harmed, asked.rate_per_s) == (1, 100.0)
    assert asked.reads == 50.0


@pytest.mark.rehearsal
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hot_key", PATIENT),
        ("latency", ["--deadline-ms", "2000", "--slowed", "all"]),
        ("poison_request", GENEROUS),
        ("oversized_payload", GENEROUS),
        ("retry_storm", ["--clients", "10", "--deadline-ms", "2000"]),
    ],
)
def test_a_running_service_holds(
    service: Cluster, name: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pids = [replica.pid for replica in service.replicas]
    began_s = time.monotonic()
    result = told(name, service, tmp_path, capsys, *more)
    assert result["verdict"] == "held", result
    assert [replica.pid for replica in service.replicas] == pids
    if name == "retry_storm":
        assert result["rude_sent"] <= 100 * (time.monotonic() - began_s)
        assert set(result) == {"drill", "verdict", *retry_storm.EMPTY}
