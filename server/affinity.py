"""On which cores the threads of a replica run.

Only one thread at a time holds the interpreter lock. Where the threads that read and write messages run on
several cores, each handing over of the lock wakes another core, and past some two thousand calls a second the
handing over costs more than the calls (measured: decision 4). So those threads stay on one core, the home
core; the workers of the ranking core, which need no lock, run on any.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_GIVEN = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset[int]()
"""The cores this process was given, before any of its threads was told to stay."""


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
