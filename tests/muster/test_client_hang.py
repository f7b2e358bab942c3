"""A replica whose process is stopped: its connections stay open and say nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.client import Client, delete
from tests.muster.scripted_replica import ScriptedReplica

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from tests.muster.scripted_replica import ScriptedReplica
with ScriptedReplica("hung", {}, primary=True) as replica:
    print(replica.endpoint, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stoppable() -> Iterator[tuple[str, int]]:
    """Endpoint and process id of a primary in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def test_reads_go_on_while_a_replica_hangs(stoppable: tuple[str, int]) -> None:
    endpoint, pid = stoppable
    with ScriptedReplica("other", {}) as other, Client([endpoint, other.endpoint]) as client:
        seen = {client.search("tea", deadline_ms=20_000).receipt.replica for _ in range(4)}
        assert seen == {"hung", "other"}
        os.kill(pid, signal.SIGSTOP)
        answers = [client.search("tea", deadline_ms=20_000).receipt.replica for _ in range(200)]
        assert answers == ["other"] * 200
        os.kill(pid, signal.SIGCONT)


def test_a_write_leaves_a_hung_primary_for_the_next_one(stoppable: tuple[str, int]) -> None:
    endpoint, pid = stoppable
    with ScriptedReplica("next", {}) as successor, Client([endpoint, successor.endpoint]) as client:
        client.apply(delete("P"), deadline_ms=20_000)
        assert successor.calls == []
        os.kill(pid, signal.SIGSTOP)
        successor.serve(ranking=True, catalogue=True)
        event = delete("P")
        # Keepalive finds the hang; without it this write would wait for the whole deadline.
        client.apply(event, deadline_ms=20_000)
        assert list(successor.log) == [event.event_id]
        os.kill(pid, signal.SIGCONT)
