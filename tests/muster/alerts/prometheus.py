"""Real Prometheus and Alertmanager processes on the loopback, where they are installed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
MISSING = "prometheus or its alertmanager is not installed (scripts/drill-tools.sh monitoring)"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(line: Sequence[str], folder: Path, ready: str) -> Iterator[None]:
    """The process, once it answers ``ready`` with 200; ended on the way out."""
    log_path = folder / f"{Path(line[0]).name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + 30.0
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=1.0) as answer:
                if answer.status == 200:
                    break
            assert process.poll() is None and time.monotonic() < end_s, log_path.read_text(encoding="utf-8")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def alertmanager(configuration: str, folder: Path) -> Iterator[int]:
    """An Alertmanager; yields its port."""
    assert ALERTMANAGER is not None
    (folder / "alertmanager.yaml").write_text(configuration, encoding="utf-8")
    port = free_port()
    line = [
        ALERTMANAGER,
        "--config.file=alertmanager.yaml",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(line, folder, f"http://127.0.0.1:{port}/-/ready"):
        yield port


@contextlib.contextmanager
def prometheus(configuration: str, folder: Path) -> Iterator[int]:
    """A Prometheus; yields its port."""
    assert PROMETHEUS is not None
    (folder / "prometheus.yaml").write_text(configuration, encoding="utf-8")
    port = free_port()
    line = [
        PROMETHEUS,
        "--config.file=prometheus.yaml",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(line, folder, f"http://127.0.0.1:{port}/-/ready"):
        yield port
