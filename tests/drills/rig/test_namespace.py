from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.rig import namespace
from drills.rig.namespace import INSIDE, enter, filter_packets, missing


def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("unshare", "ip"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing() == (
        "nft is not installed; apt-get install nftables, or let a proxy stand in: --by proxy"
    )
    with pytest.raises(Inconclusive, match="apt-get install nftables"):
        enter("drills.loss", ["--json"])


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("unshare", "ip", "nft"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in (missing() or "")
    # Who drops no packets needs no filter, and nothing can stand in.
    (tmp_path / "nft").unlink()
    told = missing(filters=False)
    assert told == "a network namespace needs root; run the drill as root"


def test_a_kernel_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("unshare", "ip", "nft"):
        script = tmp_path / program
        script.write_text("#!/bin/sh\necho 'no such filter' >&2\nexit 1\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "refuses packet filters in a namespace (no such filter)" in (missing() or "")
    with pytest.raises(Inconclusive, match="nft refused: no such filter"):
        filter_packets("add table inet x")


def test_the_drill_becomes_itself_in_a_namespace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(namespace, "missing", lambda filters: None)
    monkeypatch.setattr(os, "execvp", lambda program, command: started.append(command))
    monkeypatch.setenv(INSIDE, "0")
    enter("drills.loss", ["--json", "--share", "0.05"])
    [command] = started
    assert command[:3] == ["unshare", "--net", "--"]
    assert command[4:] == ["-m", "drills.loss", "--json", "--share", "0.05"]
    # Inside, nothing is started again.
    assert os.environ[INSIDE] == "1"
    enter("drills.loss", ["--json"])
    assert len(started) == 1


@pytest.mark.skipif(missing() is not None, reason="root and nft are needed")
def test_in_a_namespace_the_kernel_drops_what_it_is_told_to() -> None:
    script = """
import socket
from drills.rig.namespace import filter_packets, missing
assert missing() is None
with socket.create_server(("127.0.0.1", 0)) as listener:
    address = listener.getsockname()
    socket.create_connection(address, timeout=5).close()
    filter_packets(
        "add table inet t", "add chain inet t out { type filter hook output priority 0; }",
        f"add rule inet t out tcp dport {address[1]} counter drop",
    )
    try:
        socket.create_connection(address, timeout=0.3)
    except TimeoutError:
        print("dropped")
    filter_packets("delete table inet t")
    socket.create_connection(address, timeout=5).close()
    print("passed")
"""
    done = subprocess.run(
        ["unshare", "--net", "--", sys.executable, "-c", script],
        env={**os.environ, INSIDE: "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["dropped", "passed"], done.stderr
