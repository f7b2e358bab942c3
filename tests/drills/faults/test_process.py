"""Replicas that are stopped, and brought back, as scripted processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.faults import process
from drills.faults.process import (
    LATE_WRITES,
    KillPrimaryStopStandby,
    PausePrimary,
    StopInAppend,
    StopPrimary,
    StopStandby,
)
from drills.rig.cluster import RANKING_SERVICE, Cluster, ClusterPlan, stands_still

Scripted = Callable[..., ClusterPlan]


@dataclass
class Subject:
    cluster: Cluster
    product_ids: Sequence[str] = ("p1", "p2")


def test_a_stopped_standby_stands_still_until_it_is_woken(scripted: Scripted, tmp_path: Path) -> None:
    with Cluster(scripted(2), tmp_path / "cluster") as cluster:
        cluster.start()
        done = StopStandby().inject(Subject(cluster))
        [standby] = [replica for replica in cluster.replicas if replica.name == done["replica"]]
        assert standby is not cluster.primary()
        assert stands_still(done["pid"])
        assert not cluster.health(standby, RANKING_SERVICE)
        StopStandby().rollback(Subject(cluster))
        assert not stands_still(done["pid"])
        assert cluster.health(standby, RANKING_SERVICE, timeout_s=10.0)


def test_without_a_standby_none_can_be_stopped(scripted: Scripted, tmp_path: Path) -> None:
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        with pytest.raises(Inconclusive, match="there is no standby"):
            StopStandby().inject(Subject(cluster))


def test_a_paused_primary_is_the_same_process_afterwards(scripted: Scripted, tmp_path: Path) -> None:
    fault = PausePrimary(pause_ms=60.0, pauses=2, apart_s=0.01)
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        pid = cluster.primary().pid
        done = fault.inject(Subject(cluster))
        fault.rollback(Subject(cluster))
        assert (done["pid"], done["pauses"]) == (pid, 2)
        assert cluster.wait_primary(30.0).pid == pid and not stands_still(pid)


def test_writes_wait_in_a_stopped_primary_and_end_when_it_wakes(scripted: Scripted, tmp_path: Path) -> None:
    fault = StopPrimary()
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        done = fault.inject(Subject(cluster))
        assert stands_still(done["pid"])
        undone = fault.rollback(Subject(cluster))
        assert (undone["replica"], undone["ended"]) == (done["replica"], "woken")
        # A scripted replica knows no lease, so nobody fenced it: these writes are its own to acknowledge.
        assert [late["status"] for late in undone["late"]] == ["OK"] * LATE_WRITES
        assert [late["epoch"] for late in undone["late"]] == [1] * LATE_WRITES
        assert len({late["event_id"] for late in undone["late"]}) == LATE_WRITES


def test_a_stopped_primary_that_somebody_killed_is_started_again(scripted: Scripted, tmp_path: Path) -> None:
    fault = StopPrimary()
    with Cluster(scripted(2), tmp_path / "cluster") as cluster:
        cluster.start()
        primary = cluster.primary()
        done = fault.inject(Subject(cluster))
        cluster.kill(primary)
        undone = fault.rollback(Subject(cluster))
        assert undone["ended"] == "killed"
        assert {late["outcome"] for late in undone["late"]} == {"unknown"}
        assert primary.running and primary.pid != done["pid"]
        assert cluster.health(primary, RANKING_SERVICE, timeout_s=10.0)


def test_a_replica_that_cannot_stop_inside_an_append_leaves_the_drill_in_doubt(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_STAND_STILL_S", 0.1)
    fault = StopInAppend(trigger=tmp_path / "stop")
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        with pytest.raises(Inconclusive, match="did not stop inside an append"):
            fault.inject(Subject(cluster))
        assert fault.rollback(Subject(cluster)) == {}
    assert not (tmp_path / "stop").exists()


def test_a_primary_dies_and_a_standby_hangs_at_once_and_both_come_back(
    scripted: Scripted, tmp_path: Path
) -> None:
    fault = KillPrimaryStopStandby()
    with Cluster(scripted(3), tmp_path / "cluster") as cluster:
        cluster.start()
        first = cluster.primary()
        done = fault.inject(Subject(cluster))
        assert (done["replica"], first.running) == (first.name, False)
        assert stands_still(done["stopped_pid"])
        assert gone(done["pid"])
        fault.rollback(Subject(cluster))
        assert all(cluster.health(replica, RANKING_SERVICE, timeout_s=10.0) for replica in cluster.replicas)
        assert cluster.wait_primary(10.0) is not first


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()
