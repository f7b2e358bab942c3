"""The store's faults, on a file and a server of their own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.faults.store import FILE_NAME, FREEZE, KILL, FileLocked, ServerDown


def subject(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def can_write(path: Path) -> bool:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def test_a_locked_file_takes_no_writes_and_can_be_read_until_it_is_undone(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t (x)")
    fault = FileLocked()
    cluster = subject(cluster=SimpleNamespace(data_dir=tmp_path))
    try:
        told = fault.inject(cluster)
        assert told["store_readable"] is True
        assert not can_write(path)
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (0,)
    finally:
        fault.rollback(cluster)
    assert can_write(path)
    fault.rollback(cluster)
    writer.close()


def test_a_server_is_broken_and_mended_by_its_own_means() -> None:
    done: list[str] = []

    class Server:
        running = False

        def __getattr__(self, name: str) -> Any:
            return lambda: done.append(name)

    for how in (FREEZE, KILL):
        fault = ServerDown(how)
        assert fault.inject(subject(server=Server()))["store_readable"] is False
        fault.rollback(subject(server=Server()))
    assert done == ["freeze", "thaw", "kill", "start"]
    assert [ServerDown(how).name for how in (FREEZE, KILL)] == ["freeze", "kill"]


def test_a_server_that_runs_is_not_started_again() -> None:
    # As after a fault that was never injected.
    ServerDown(KILL).rollback(subject(server=SimpleNamespace(running=True)))


@pytest.mark.parametrize("how", [FREEZE, KILL])
def test_without_a_server_the_drill_is_wrong(how: str) -> None:
    with pytest.raises(AssertionError, match="without a server"):
        ServerDown(how).inject(subject(server=None))
