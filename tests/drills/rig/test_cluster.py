from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.faults.process import KillPrimary
from drills.outcome import interrupted_by_sigterm
from drills.rig.cluster import (
    CATALOGUE_SERVICE,
    RANKING_SERVICE,
    Cluster,
    ClusterError,
    ClusterPlan,
    find_bundle,
    write_toml,
)
from tests.drills.conftest import FAKE_COMMAND

Scripted = Callable[..., ClusterPlan]


@dataclass
class Holder:
    cluster: Cluster


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_replicas_come_up_with_one_primary_and_all_end_with_the_cluster(
    scripted: Scripted, tmp_path: Path
) -> None:
    with Cluster(scripted(), tmp_path / "cluster") as cluster:
        cluster.start()
        assert len(set(cluster.addresses)) == 3
        assert all(cluster.health(replica, RANKING_SERVICE) for replica in cluster.replicas)
        assert sum(cluster.health(replica, CATALOGUE_SERVICE) for replica in cluster.replicas) == 1
        pids = [replica.pid for replica in cluster.replicas]
        assert {cluster.status(replica).pid for replica in cluster.replicas} == set(pids)
    assert all(gone(pid) for pid in pids)


def test_killing_the_primary_leaves_another_and_the_rollback_brings_it_back(
    scripted: Scripted, tmp_path: Path
) -> None:
    with Cluster(scripted(), tmp_path / "cluster") as cluster:
        cluster.start()
        first = cluster.primary()
        address = first.address
        done = KillPrimary().inject(Holder(cluster))
        assert (done["replica"], gone(done["pid"])) == (first.name, True)
        second = cluster.wait_primary(10.0)
        assert second is not first
        KillPrimary().rollback(Holder(cluster))
        assert first.running
        assert first.address == address
        assert cluster.health(first, RANKING_SERVICE)
        assert cluster.primary() is second


def test_a_stopped_replica_is_ended_too(scripted: Scripted, tmp_path: Path) -> None:
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        pid = cluster.replicas[0].pid
        cluster.signal(cluster.replicas[0], signal.SIGSTOP)
    assert gone(pid)


def test_a_replica_that_ends_at_its_start_is_reported_with_its_log(
    scripted: Scripted, tmp_path: Path
) -> None:
    plan = replace(scripted(1), command=(sys.executable, "-c", "print('bad bundle'); raise SystemExit(2)"))
    with (
        Cluster(plan, tmp_path / "cluster") as cluster,
        pytest.raises(ClusterError, match=r"(?s)ended with code 2.*bad bundle"),
    ):
        cluster.start()


def test_replicas_do_not_inherit_settings_from_the_environment(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_LEASE__TTL_MS", "1")
    show = "import os; print(sorted(k for k in os.environ if k.startswith('MUSTER'))); raise SystemExit(1)"
    with (
        Cluster(replace(scripted(1), command=(sys.executable, "-c", show)), tmp_path / "cluster") as cluster,
        pytest.raises(ClusterError, match=r"\[\]"),
    ):
        cluster.start()


def test_a_replica_dies_with_a_drill_that_is_killed_outright(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from drills.rig.cluster import Cluster, ClusterPlan\n"
        f"plan = ClusterPlan(bundle=Path('.'), replicas=1, command={FAKE_COMMAND!r})\n"
        f"cluster = Cluster(plan, Path({str(tmp_path / 'cluster')!r})); cluster.start()\n"
        "print(cluster.replicas[0].pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as drill:
        assert drill.stdout is not None
        pid = int(drill.stdout.readline())
        assert not gone(pid)
        drill.kill()
    with Cluster(ClusterPlan(bundle=tmp_path), tmp_path / "none") as waiting:
        waiting.wait("the replica to die", 10.0, lambda: gone(pid))


def test_sigterm_ends_a_drill_as_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait(set(), 5)


def test_settings_become_toml_that_reads_back() -> None:
    values = {
        "replica": 'a "b" \\ c',
        "port": 0,
        "on": True,
        "lease": {"ttl_ms": 500, "gain": 0.5, "off": False},
    }
    assert tomllib.loads(write_toml(values)) == values


@pytest.mark.parametrize("replicas", [0, 9])
def test_the_number_of_replicas_is_bounded(replicas: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        Cluster(ClusterPlan(bundle=tmp_path, replicas=replicas), tmp_path)


def test_a_missing_bundle_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="muster train"):
        find_bundle(tmp_path / "nothing")
