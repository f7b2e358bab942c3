"""A process that stops itself inside an append, and all the others, which cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drills.faults.process import STOP_IN_APPEND
from server.catalogue import failpoint
from server.catalogue.errors import StoreUnavailable
from server.catalogue.failpoint import ENVIRONMENT, stop_in_append
from server.catalogue.opening import open_store
from server.catalogue.store import StoreConfig
from tests.server.catalogue.conftest import HOLDER, TTL_NS, event_ids, new_events

ROOT = Path(__file__).parents[3]
LONG_S = 60.0


def test_the_drill_names_the_variable_that_the_store_reads() -> None:
    assert STOP_IN_APPEND == ENVIRONMENT


@pytest.mark.parametrize("value", [None, ""])
def test_a_process_without_the_variable_has_no_such_place(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(ENVIRONMENT, raising=False)
    else:
        monkeypatch.setenv(ENVIRONMENT, value)
    assert stop_in_append() is None


def test_nothing_happens_while_the_file_is_not_there_and_once_when_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signals: list[int] = []
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "stop"))
    monkeypatch.setattr(failpoint.os, "kill", lambda pid, number: signals.append(number))
    reached = stop_in_append()
    assert reached is not None
    reached()
    assert signals == []
    (tmp_path / "stop").touch()
    reached()
    reached()
    assert signals == [signal.SIGSTOP]


APPEND = """
import sys
from server.catalogue.opening import open_store
from tests.server.catalogue.conftest import new_events
open_store(sys.argv[1]).append([new_events("b")], epoch=1)
"""


def test_the_process_stops_with_the_write_lock_held_and_goes_on_when_woken(
    path: Path, tmp_path: Path
) -> None:
    store = open_store(str(path), StoreConfig(busy_timeout_ms=50))
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
    store.append([new_events("a")], epoch=1)
    trigger = tmp_path / "stop"
    trigger.touch()
    environment = {**os.environ, ENVIRONMENT: str(trigger)}
    process = subprocess.Popen([sys.executable, "-c", APPEND, str(path)], cwd=ROOT, env=environment)
    try:
        end_s = time.monotonic() + LONG_S
        while not os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)[1]):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            store.append([new_events("c")], epoch=1)
        assert event_ids(store.read_range(1)) == ["a"]
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(LONG_S) == 0
        assert event_ids(store.read_range(1)) == ["a", "b"]
    finally:
        process.kill()
        process.wait()
        store.close()
