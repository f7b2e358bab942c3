"""Replicas that come and go: real processes on loopback, which speak the services that are asked."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.autoscale.command import autoscale
from muster.autoscale.decision import ScalePolicy
from muster.autoscale.local import LocalReplicas, LocalSettings, Phase

SMALL = (sys.executable, "-m", "tests.muster.autoscale.small_replica")


def free_endpoints(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return [f"127.0.0.1:{port}" for port in ports]


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    config = tmp_path / "replica.toml"
    config.write_text("", encoding="utf-8")
    return LocalSettings(config, tmp_path / "logs", command=SMALL, start_s=60.0, drain_s=60.0)


def until(condition: Callable[[], bool], look: Callable[[], None]) -> None:
    for _ in range(3_000):
        look()
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never came to that")


def test_a_replica_starts_joins_drains_and_leaves(settings: LocalSettings) -> None:
    told: list[str] = []
    with LocalReplicas(free_endpoints(2), settings, told.append) as replicas:
        replicas.add()
        assert (replicas.count, replicas.moving, replicas.serving) == (1, True, [])
        until(lambda: bool(replicas.serving), replicas.look)
        assert replicas.remove()
        until(lambda: not replicas.moving, replicas.look)
        assert [slot.phase for slot in replicas.slots] == [Phase.EMPTY] * 2
        assert replicas.problems == 0
    assert [sentence.split(": ")[1].split(",")[0].split(" after")[0] for sentence in told] == [
        "started",
        "joined",
        "draining",
        "ended",
    ]


def test_the_primary_and_whoever_does_not_answer_are_never_drained(settings: LocalSettings) -> None:
    settings.config.write_text("primary", encoding="utf-8")
    with LocalReplicas(free_endpoints(1), settings, lambda sentence: None) as replicas:
        replicas.add()
        until(lambda: bool(replicas.serving), replicas.look)
        assert not replicas.remove()
        assert replicas.serving


@pytest.mark.parametrize("how", ["die", "never"])
def test_one_that_does_not_come_up_is_a_problem_and_frees_its_slot(settings: LocalSettings, how: str) -> None:
    settings.config.write_text(how, encoding="utf-8")
    told: list[str] = []
    clock = time.monotonic
    late = [0.0]
    with LocalReplicas(free_endpoints(1), settings, told.append, clock=lambda: clock() + late[0]) as replicas:
        replicas.add()
        if how == "never":
            late[0] = 100.0
        until(lambda: replicas.problems == 1, replicas.look)
        assert replicas.slots[0].phase is Phase.EMPTY
    assert told[-1].startswith("problem: scaled-1")


def test_load_brings_replicas_and_quiet_takes_them_away_without_a_problem(settings: LocalSettings) -> None:
    policy = ScalePolicy(replicas_max=2, out_after_s=0.0, in_after_s=0.0, cooldown_s=0.0)
    stop = threading.Event()
    told: list[str] = []
    with LocalReplicas(free_endpoints(2), settings, told.append) as replicas:
        full = [False]

        def load(joined: list[str]) -> float:
            full[0] = full[0] or len(joined) == 2
            if full[0] and not joined:
                stop.set()
            return 0.0 if full[0] else 1.0

        account = autoscale(replicas, load, policy, told.append, stop, look_s=0.02)  # type: ignore[arg-type]
    assert account.describe() == {"added": 2, "removed": 2, "most": 2, "problems": 0}, told
