"""Messages are read and written on one core; ranking runs on any."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server import affinity
from tests.server.replica import Replica, command, run_refused

pytestmark = pytest.mark.skipif(len(affinity.cores()) < 2, reason="this machine gives tests one core only")


def in_a_thread_of_its_own(body: Callable[[], object]) -> set[int]:
    found: set[int] = set()

    def run() -> None:
        body()
        found.update(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


def test_replicas_with_neighbouring_names_have_different_home_cores() -> None:
    assert affinity.home_core("a") != affinity.home_core("b")
    assert affinity.home_core("replica-1") != affinity.home_core("replica-2")
    assert affinity.home_core("any name") in affinity.cores()


def test_a_thread_stays_where_it_is_told_and_roams_again() -> None:
    core = affinity.home_core("a")
    assert in_a_thread_of_its_own(lambda: affinity.stay(core)) == {core}

    def stay_and_roam() -> None:
        affinity.stay(core)
        affinity.roam()

    assert in_a_thread_of_its_own(stay_and_roam) == affinity.cores()
    assert in_a_thread_of_its_own(lambda: affinity.stay(None)) == affinity.cores()


def test_threads_started_while_roaming_may_run_anywhere() -> None:
    core = affinity.home_core("a")
    inside: list[set[int]] = []

    def body() -> None:
        affinity.stay(core)
        with affinity.roaming():
            inside.append(in_a_thread_of_its_own(lambda: None))

    assert in_a_thread_of_its_own(body) == {core}
    assert inside == [affinity.cores()]


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("1,4-5, 9", {1, 4, 5, 9}), ("7-7", {7})],
)
def test_cores_are_named_as_the_kernel_names_them(text: str, cores: set[int]) -> None:
    assert affinity.parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "1-", "0x1", "node:", "node:-1", "123456"])
def test_what_is_no_list_of_cores_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write 0-3,8 or node:0"):
        affinity.parse_cores(text)


def test_a_numa_node_is_its_cores_and_one_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text("4-5,8\n")
    monkeypatch.setattr(affinity, "_NODES", tmp_path)
    assert affinity.parse_cores("node:1") == {4, 5, 8}
    with pytest.raises(ValueError, match="no NUMA node 7; it has 1"):
        affinity.parse_cores("node:7")


def test_a_replica_keeps_to_the_cores_it_is_told(bundle: Path, tmp_path: Path) -> None:
    core = max(affinity.cores())
    with Replica(bundle, tmp_path / "data", "a", {"cores": str(core)}) as replica:
        replica.wait_serving()
        for task in Path(f"/proc/{replica.process.pid}/task").iterdir():
            assert os.sched_getaffinity(int(task.name)) == {core}, (task / "comm").read_text()


def test_cores_that_the_process_may_not_use_are_refused(bundle: Path, tmp_path: Path) -> None:
    code, told = run_refused(command(bundle, tmp_path / "data", {"cores": "99999"}))
    assert code == 2
    assert "cores = '99999': this process may only run on" in told


@pytest.mark.parametrize("home_core", [True, False])
def test_a_replica_ranks_anywhere_and_talks_on_its_home_core(
    home_core: bool, bundle: Path, tmp_path: Path
) -> None:
    ranking: list[set[int]] = []
    others: dict[int, set[int]] = {}
    with Replica(bundle, tmp_path / "data", "a", {"rpc.home_core": home_core}) as replica:
        replica.wait_serving()
        for task in Path(f"/proc/{replica.process.pid}/task").iterdir():
            name = (task / "comm").read_text(encoding="utf-8")
            cores = os.sched_getaffinity(int(task.name))
            if name.startswith("rank"):
                ranking.append(cores)
            else:
                others[int(task.name)] = cores
    assert ranking and all(cores == affinity.cores() for cores in ranking)
    home = {affinity.home_core("a")} if home_core else affinity.cores()
    assert others[replica.process.pid] == home
    # Anywhere: the renewal of generations, and what numerical libraries started when they were loaded.
    assert sum(cores == home for cores in others.values()) > len(others) / 2
