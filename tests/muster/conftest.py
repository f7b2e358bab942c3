"""Replicas that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.muster.scripted_replica import ScriptedReplica

Start = Callable[..., list[ScriptedReplica]]


@pytest.fixture
def start_replicas() -> Iterator[Start]:
    """Starts some replicas over one log; the first is the primary."""
    started: list[ScriptedReplica] = []

    def start(count: int) -> list[ScriptedReplica]:
        log: dict[str, int] = {}
        fresh = [ScriptedReplica(f"r{number}", log, primary=number == 0) for number in range(count)]
        started.extend(fresh)
        return fresh

    yield start
    for replica in started:
        replica.close()
