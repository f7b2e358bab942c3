"""A network of the drill's own: the whole drill, with its replicas, in a network namespace. It may drop
packets there without anybody else losing one, and has an address that is not loopback's, though nothing leads
out.

Needs root, unshare, ip, and for dropping nft.
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
_TRIAL = "ip link set lo up"
_FILTER_TRIAL = f"nft 'add table inet {TABLE}' && nft 'list table inet {TABLE}'"
_TRIAL_S = 10.0
_OTHERWISE = "let a proxy stand in: --by proxy"
ELSEWHERE = "10.77.0.1"
"""An address inside that is not taken for this machine's own."""


def missing(*, filters: bool = True) -> str | None:
    """Why there is no such network here and what to do, or None. filters: it must be able to drop packets;
    where it is not, a proxy may stand in."""
    otherwise = f", or {_OTHERWISE}" if filters else ""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None and (filters or program != "nft"):
            return f"{program} is not installed; apt-get install {package}{otherwise}"
    if os.geteuid() != 0:
        return f"a network namespace needs root; run the drill as root{otherwise}"
    trial = f"{_TRIAL} && {_FILTER_TRIAL}" if filters else _TRIAL
    command = ["sh", "-c", trial] if inside() else ["unshare", "--net", "--", "sh", "-c", trial]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_TRIAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a network namespace cannot be tried ({error}){otherwise}"
    if tried.returncode != 0:
        why = " ".join(tried.stderr.split()) or f"code {tried.returncode}"
        what = "packet filters in a namespace" if filters else "a namespace"
        return f"this kernel refuses {what} ({why}){otherwise}"
    return None


def namespace_need() -> Need:
    """The need for it as an experiment states it."""
    return Need("root and nft", missing)


def inside() -> bool:
    """Whether this drill runs in a namespace of its own."""
    return os.environ.get(INSIDE) == "1"


def enter(module: str, arguments: Sequence[str], *, filters: bool = True) -> None:
    """Becomes the same drill in a namespace of its own; returns only where it is in one already, with its
    loopback up. Raises: Inconclusive."""
    if (reason := missing(filters=filters)) is not None:
        raise Inconclusive(reason)
    if inside():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[INSIDE] = "1"
    # By exec, so that the process stays the one that was started and its signals reach the drill.
    command = ["unshare", "--net", "--", sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


def add_address(address: str = ELSEWHERE) -> str:
    """Gives the namespace this address too; returns it. Raises: Inconclusive."""
    assert inside(), "only in a namespace of one's own"
    added = subprocess.run(
        ["ip", "address", "replace", f"{address}/32", "dev", "lo"],
        capture_output=True,
        text=True,
        check=False,
    )
    if added.returncode != 0:
        raise Inconclusive(f"the namespace takes no address: {' '.join(added.stderr.split())}")
    return address


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
