"""Ranking workers by price, on a made-up clock, and in a real core."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from server.scaling import LOOK_S, WorkerScaling, worker_policy


class Core:
    """A pool that notes how it is resized, with a price and a clock that the test sets."""

    def __init__(self, least: int, most: int) -> None:
        self.price: float | None = 0.0
        self.now_s = 0.0
        self.sizes: list[int] = []
        self.scaling = WorkerScaling(
            worker_policy(least, most), lambda: self.price, self.resize, clock=lambda: self.now_s
        )

    def resize(self, workers: int) -> int:
        self.sizes.append(workers)
        return workers

    def looks(self, seconds: float) -> int:
        """Looks for so long; returns the workers at the end."""
        for _ in range(round(seconds / LOOK_S)):
            self.now_s += LOOK_S
            self.scaling.look()
        return self.scaling.workers


def test_workers_come_soon_when_time_is_dear_go_late_when_it_is_cheap_and_stay_within_their_bounds() -> None:
    core = Core(1, 4)
    core.scaling.workers = 1
    assert core.looks(60) == 1
    core.price = 0.5
    assert core.looks(2) == 4
    assert core.looks(60) == 4
    core.price = 0.05
    assert core.looks(60) == 4
    core.price = 0.0
    assert core.looks(9) == 4
    assert core.looks(60) == 1
    assert core.sizes == [2, 3, 4, 3, 2, 1]


def test_upon_silence_nothing_changes() -> None:
    core = Core(1, 4)
    core.scaling.workers = 2
    core.price = None
    assert core.looks(60) == 2
    assert core.sizes == []


def test_it_begins_with_the_least_and_ends_with_the_most() -> None:
    core = Core(2, 5)
    core.scaling.start()
    core.scaling.stop()
    assert (core.sizes[0], core.sizes[-1]) == (2, 5)


def test_where_the_price_cannot_be_told_all_workers_work() -> None:
    core = Core(1, 3)

    def broken() -> float | None:
        raise RuntimeError("no price")

    core.scaling = WorkerScaling(worker_policy(1, 3), broken, core.resize)
    core.scaling.start()
    give_up_at = time.monotonic() + 30
    while core.sizes != [1, 3] and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert core.sizes == [1, 3]


def test_the_core_works_with_as_many_as_it_is_told(tmp_path: Path) -> None:
    rankcore = pytest.importorskip("rankcore")
    from tests.fixtures.tiny_bundle import build

    build(tmp_path / "tiny")
    engine = rankcore.Engine(str(tmp_path / "tiny"), runtime_library=rankcore.runtime_library(), workers=3)
    try:
        assert [engine.resize(workers) for workers in (1, 0, 2, 9)] == [1, 1, 2, 3]
        engine.resize(2)
        assert engine.status()["workers"] == 2
    finally:
        engine.close()


def test_a_quiet_replica_lets_all_but_the_least_of_its_workers_rest(tmp_path: Path) -> None:
    from tests.fixtures.tiny_bundle import build
    from tests.server.replica import Replica, wait_until

    build(tmp_path / "tiny")
    settings = {"ranking.workers": 3, "ranking.workers_min": 1, "metrics.listen": "127.0.0.1:0"}
    with Replica(tmp_path / "tiny", tmp_path / "data", "a", settings) as replica:
        replica.wait_serving()
        found: list[str] = []

        def told() -> bool:
            found[:] = re.findall(r"metrics on port (\d+)", replica.log())
            return bool(found)

        wait_until(told, "the metrics endpoint")

        def workers() -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{found[0]}/metrics", timeout=10) as answer:
                page = answer.read().decode()
            [number] = re.findall(r"^muster_workers (\S+)$", page, re.MULTILINE)
            return float(number)

        wait_until(lambda: workers() == 1, "one worker")
