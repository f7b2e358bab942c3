"""On which cores the threads of a replica run.

Only one thread at a time holds the interpreter lock. Where the threads that read and write messages run on
several cores, each handing over of the lock wakes another core, and past some two thousand calls a second the
handing over costs more than the calls (measured: decision 4). So those threads stay on one core, the home
core; the workers of the ranking core, which need no lock, run on any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NODES = Path("/sys/devices/system/node")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_NODE = re.compile(r"node:(\d{1,5})", re.ASCII)

_GIVEN = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset[int]()
"""The cores this process was given, before any of its threads was told to stay."""


def parse_cores(text: str) -> frozenset[int]:
    """The cores that a list such as "0-3,8" names, as the kernel writes them, or "node:1" for those of a
    NUMA node of this machine. Raises: ValueError saying what is accepted.
    """
    node = _NODE.fullmatch(text.strip())
    if node is not None:
        try:
            return parse_cores((_NODES / f"node{node[1]}" / "cpulist").read_text())
        except OSError as error:
            known = sorted(path.name.removeprefix("node") for path in _NODES.glob("node[0-9]*"))
            raise ValueError(
                f"this machine has no NUMA node {node[1]}; it has {', '.join(known) or 'none'}"
            ) from error
    found: set[int] = set()
    for part in text.strip().split(","):
        ends = _RANGE.fullmatch(part.strip())
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise ValueError(f"{text!r} is no list of cores; write 0-3,8 or node:0")
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return frozenset(found)


def settle(text: str) -> None:
    """Keep the whole process, and the memory that it touches from here on, on some cores.

    text: as `parse_cores` takes it; empty: all cores that the process was given. Raises: ValueError where the
    process may run on none of them.
    """
    global _GIVEN
    if not text:
        return
    usable = parse_cores(text) & _GIVEN
    if not usable:
        given = ", ".join(map(str, sorted(_GIVEN)))
        raise ValueError(f"cores = {text!r}: this process may only run on {given}")
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), usable)
    _GIVEN = usable


def cores() -> frozenset[int]:
    """The cores this process was given; empty where the system does not tell."""
    return _GIVEN


def home_core(replica: str) -> int | None:
    """The home core of a replica; None with fewer than two cores.

    Replicas whose names differ in the last letter, such as a, b and c, have neighbouring home cores, so that
    those of one machine share none while there are enough.
    """
    given = sorted(_GIVEN)
    return given[sum(replica.encode()) % len(given)] if len(given) > 1 else None


def stay(core: int | None) -> None:
    """Keep the calling thread, and the threads it starts, on one core. None: change nothing."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def roam() -> None:
    """Let the calling thread, and what it starts, run on all the cores this process was given."""
    if _GIVEN:
        os.sched_setaffinity(0, _GIVEN)


@contextmanager
def roaming() -> Iterator[None]:
    """Threads that are started inside may run on any core; the calling thread is back where it was after."""
    if not _GIVEN:
        yield
        return
    before = os.sched_getaffinity(0)
    roam()
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
