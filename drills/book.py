"""The drill book: every rehearsed failure that this installation knows, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Drill:
    """One entry of the book.

    module: where its `main(arguments) -> exit code` lives; imported only when it runs.
    needs: what the machine must offer, in words; empty where any machine will do.
    """

    name: str
    hypothesis: str
    injection: str
    module: str
    needs: tuple[str, ...] = ()

    def run(self, arguments: Sequence[str]) -> int:
        """Runs the drill with its own command line; returns 0 held, 10 deviated, 20 inconclusive, 2 bad
        usage."""
        main = cast(Callable[[Sequence[str]], int], importlib.import_module(self.module).main)
        return main(arguments)

    def describe(self) -> dict[str, Any]:
        """The entry as an object for `muster drill list --json`."""
        return {
            "name": self.name,
            "hypothesis": self.hypothesis,
            "injection": self.injection,
            "needs": list(self.needs),
        }


DRILLS: tuple[Drill, ...] = (
    Drill(
        name="failover",
        hypothesis=(
            "writes are back within 300 ms (median), no read fails, no acknowledged write is lost or doubled"
        ),
        injection="kill -9 the primary under read and write load",
        module="drills.failover",
        needs=("a model bundle",),
    ),
    Drill(
        name="rolling_restart",
        hypothesis="no read and no write fails, no acknowledged write is lost or doubled",
        injection="drain and restart every replica in turn under load, transfer the lease in the middle",
        module="drills.rolling_restart",
        needs=("a model bundle",),
    ),
    Drill(
        name="deadline_storm",
        hypothesis="at 5 times the capacity, at least 95 % of all requests are answered within their 50 ms",
        injection="an open-loop flood at a multiple of the measured capacity of the best plan",
        module="drills.deadline_storm",
        needs=("a model bundle",),
    ),
    Drill(
        name="bad_deploy",
        hypothesis=(
            "a wrong and a slow bundle are rolled back by themselves within 10 s of the canary's start, and"
            " no read fails"
        ),
        injection="muster deploy of a bundle that ranks backwards, and of one that ranks slowly",
        module="drills.bad_deploy",
        needs=("a model bundle",),
    ),
    Drill(
        name="slow_disk",
        hypothesis=(
            "reads go on in time, writes beyond what the disk can do are refused within their deadline, no"
            " acknowledged write is lost, and all succeed again once the disk does"
        ),
        injection="200 ms more for every fsync of every replica, under more writes than that allows",
        module="drills.slow_disk",
        needs=("a model bundle", "strace and the right to attach it (ptrace)"),
    ),
    Drill(
        name="disk_full",
        hypothesis=(
            "on a full disk writes are refused as RESOURCE_EXHAUSTED, reads go on, and once there is room "
            "writes succeed by themselves; no acknowledged write is lost"
        ),
        injection="fill the small tmpfs that holds the data folder",
        module="drills.disk_full",
        needs=("a model bundle", "root, or a user namespace with mounts"),
    ),
    Drill(
        name="fsync_error",
        hypothesis=(
            "a primary whose fsync fails ends by itself and acknowledges nothing more, a standby takes "
            "over, no read fails, no acknowledged write is lost"
        ),
        injection="EIO for every fsync of the primary",
        module="drills.fsync_error",
        needs=("a model bundle", "strace and the right to attach it (ptrace)"),
    ),
    Drill(
        name="memory_pressure",
        hypothesis=(
            "a replica that runs out of memory dies alone, a standby takes over, no read fails, no "
            "acknowledged write is lost"
        ),
        injection="a memory group with too low a limit for the primary, and a ballast beside it",
        module="drills.memory_pressure",
        needs=("a model bundle", "root and control groups for memory"),
    ),
    Drill(
        name="cpu_starvation",
        hypothesis=(
            "a replica with a fifth of a core answers 99 % of what it does not refuse in time, with less"
            " quality, and callers of the client get 99 % of their answers in time"
        ),
        injection="a quota of a fifth of a core for a standby, under searches with 50 ms deadlines",
        module="drills.cpu_starvation",
        needs=("a model bundle", "root and control groups for the processor"),
    ),
    Drill(
        name="corrupt_bundle",
        hypothesis=(
            "damaged bundles and generations are refused by name and the last good ones serve on; no read "
            "fails"
        ),
        injection="flipped bits and missing ends in models, manifests, lexical index and vectors",
        module="drills.corrupt_bundle",
        needs=("a model bundle",),
    ),
    Drill(
        name="cold_start",
        hypothesis=(
            "a replica with empty caches is not SERVING before it is warm: each of its first answers comes in"
            " time"
        ),
        injection="restart a standby under load, its files dropped from the system's cache",
        module="drills.cold_start",
        needs=("a model bundle",),
    ),
)


class UnknownDrill(LookupError):
    """No drill of that name; the text lists those there are."""


def find(name: str) -> Drill:
    """The drill of that name (dashes and underscores are alike). Raises UnknownDrill."""
    wanted = name.replace("-", "_")
    for drill in DRILLS:
        if drill.name == wanted:
            return drill
    raise UnknownDrill(f"no drill named {name!r}; there are: {', '.join(drill.name for drill in DRILLS)}")
