"""One server process with all that it starts: begun, held still while others are measured, ended by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.peers.roster import ROOT
from drills.rig.cluster import TETHER

NAMESPACE = Path(__file__).with_name("namespace.py")
GRACE_S = 5.0


class ServerFailed(Exception):
    """A server did not come up, or left; the message quotes its log."""


def free_port() -> int:
    """A port of loopback that nothing listens on, with a free one above it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def tree_of(pid: int) -> list[psutil.Process]:
    """A process and all its descendants that still exist."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def send(number: signal.Signals, tree: Sequence[psutil.Process]) -> None:
    """Signals those of them that still exist."""
    for one in tree:
        with contextlib.suppress(psutil.Error):
            one.send_signal(number)


def memory_mib(pid: int) -> float:
    """Resident memory of a whole tree; what processes share counts in each."""
    total = 0
    for one in tree_of(pid):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total / 2**20


class Server:
    """A process and its descendants.

    command: what is run, from the checkout's root. log: where its output goes. namespace: in a network
    namespace of its own. Use it as a context manager, or call `end`.
    """

    def __init__(self, command: Sequence[str], log: Path, *, namespace: bool = False) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        # No peer may call home.
        environment |= {"DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}
        # Each peer's own setting says how many threads it has.
        environment.pop("OMP_NUM_THREADS", None)
        inside = [sys.executable, str(NAMESPACE)] if namespace else []
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-IS", str(TETHER), str(os.getpid()), *inside, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        self.namespace_pid = self._process.pid if namespace else None

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def pause(self) -> None:
        """Holds the whole tree still, so that it costs the others nothing."""
        send(signal.SIGSTOP, tree_of(self.pid))

    def resume(self) -> None:
        """Lets it go on. Raises: ServerFailed where it has ended."""
        if not self.running:
            raise ServerFailed(f"it ended with code {self._process.returncode}: {self.log_tail()}")
        send(signal.SIGCONT, tree_of(self.pid))

    def end(self) -> None:
        """Ends the whole tree: SIGTERM, then SIGKILL. Safe to call twice."""
        tree = tree_of(self.pid)
        send(signal.SIGCONT, tree)
        send(signal.SIGTERM, tree[:1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=GRACE_S)
        # What the first process left behind was in the tree before it went.
        send(signal.SIGKILL, tree)
        psutil.wait_procs(tree, timeout=GRACE_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=GRACE_S)

    def log_tail(self, lines: int = 3) -> str:
        """The end of its log on one line."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"
        kept = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(kept[-lines:]) or "(empty log)"

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Polls until `ready()` is true. Raises: ServerFailed on time-out, or where the process ends."""
        end_s = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise ServerFailed(f"it ended with code {self._process.returncode}: {self.log_tail()}")
            if time.monotonic() > end_s:
                raise ServerFailed(f"it did not answer within {timeout_s:.0f} s: {self.log_tail()}")
            time.sleep(0.2)

    def wait(self, timeout_s: float) -> int:
        """Waits until it ends by itself; its exit code. Raises: subprocess.TimeoutExpired."""
        return self._process.wait(timeout=timeout_s)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *ending: object) -> None:
        self.end()
