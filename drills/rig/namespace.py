"""A network of the drill's own: the whole drill, with its replicas, in a network namespace whose packets it
may drop without anybody else losing one. Needs root, unshare, ip and nft.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from drills.experiment import Inconclusive, Need

INSIDE = "MUSTER_DRILL_NAMESPACE"
"""Of the environment: set for a drill that has entered a namespace."""

TABLE = "muster_drill"
_PROGRAMS = {"unshare": "util-linux", "ip": "iproute2", "nft": "nftables"}
_TRIAL = f"ip link set lo up && nft 'add table inet {TABLE}' && nft 'list table inet {TABLE}'"
_TRIAL_S = 10.0
_OTHERWISE = "let a proxy stand in: --by proxy"


def missing() -> str | None:
    """Why no packets can be dropped here and what to do, or None."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is not installed; apt-get install {package}, or {_OTHERWISE}"
    if os.geteuid() != 0:
        return f"a network namespace needs root; run the drill as root, or {_OTHERWISE}"
    command = ["sh", "-c", _TRIAL] if inside() else ["unshare", "--net", "--", "sh", "-c", _TRIAL]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_TRIAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a network namespace cannot be tried: {error}; {_OTHERWISE}"
    if tried.returncode != 0:
        why = " ".join(tried.stderr.split()) or f"code {tried.returncode}"
        return f"this kernel refuses packet filters in a namespace ({why}); {_OTHERWISE}"
    return None


def namespace_need() -> Need:
    """The need for it as an experiment states it."""
    return Need("root and nft", missing)


def inside() -> bool:
    """Whether this drill runs in a namespace of its own."""
    return os.environ.get(INSIDE) == "1"


def enter(module: str, arguments: Sequence[str]) -> None:
    """Becomes the same drill in a namespace of its own; returns only where it is in one already, with its
    loopback up. Raises: Inconclusive."""
    if (reason := missing()) is not None:
        raise Inconclusive(reason)
    if inside():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[INSIDE] = "1"
    # By exec, so that the process stays the one that was started and its signals reach the drill.
    command = ["unshare", "--net", "--", sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


def filter_packets(*commands: str) -> str:
    """Gives nft these commands, all or none; returns what it says. Raises: Inconclusive."""
    done = subprocess.run(
        ["nft", "-f", "-"],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        timeout=_TRIAL_S,
        check=False,
    )
    if done.returncode != 0:
        raise Inconclusive(f"nft refused: {' '.join(done.stderr.split())}")
    return done.stdout
