"""The store going away: its server frozen or killed, its file locked by another process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from drills.experiment import Inconclusive
from drills.rig.cluster import Cluster
from drills.rig.postgres import ThrowawayPostgres

FREEZE = "freeze"
KILL = "kill"
LOCK = "lock"
FILE_NAME = "catalogue.sqlite3"


class Stored(Protocol):
    """A subject with a store."""

    @property
    def cluster(self) -> Cluster:
        """The replicas."""
        ...

    @property
    def server(self) -> ThrowawayPostgres | None:
        """The server of the store, where there is one."""
        ...


@dataclass(frozen=True)
class ServerDown:
    """The PostgreSQL server is frozen (SIGSTOP of all of it: connections stay open, nothing answers), or
    killed; undone by thawing it, or by starting it on the data it has."""

    how: str

    @property
    def name(self) -> str:
        """How it goes."""
        return self.how

    def inject(self, subject: Stored) -> dict[str, Any]:
        """Does it."""
        server = _server(subject)
        instant_s = time.monotonic()
        if self.how == FREEZE:
            server.freeze()
        else:
            server.kill()
        return {"store_readable": False, "instant_s": instant_s}

    def rollback(self, subject: Stored) -> None:
        """Has it run again."""
        server = _server(subject)
        if self.how == FREEZE:
            server.thaw()
        elif not server.running:
            server.start()


def _server(subject: Stored) -> ThrowawayPostgres:
    assert subject.server is not None, "the drill was started without a server"
    return subject.server


_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""
"""Takes the write lock and keeps it until its input ends. It never writes, so a library of any version does,
and its death frees the lock."""

_LOCK_WAIT_S = 10.0


class FileLocked:
    """Another process holds the write lock of the SQLite file, as a forgotten shell of an operator would;
    readers of a file in WAL mode go on. Undone by ending that process."""

    name = LOCK

    def __init__(self) -> None:
        self._holder: subprocess.Popen[str] | None = None

    def inject(self, subject: Stored) -> dict[str, Any]:
        """Takes the lock. Raises Inconclusive where it is not to be had."""
        path = subject.cluster.data_dir / FILE_NAME
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(path), str(_LOCK_WAIT_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._holder = holder
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != "locked":
            raise Inconclusive(f"{path} could not be locked within {_LOCK_WAIT_S:.0f} s")
        return {"pid": holder.pid, "store_readable": True}

    def rollback(self, subject: Stored) -> None:
        """Ends the process that holds the lock."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        for pipe in (holder.stdin, holder.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            holder.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
