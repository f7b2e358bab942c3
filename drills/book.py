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
        name="hang",
        hypothesis=(
            "writes are back within the lease's life + 200 ms (median), no read fails, nothing is lost or"
            " doubled, every epoch has one primary, and a primary that wakes late changes nothing"
        ),
        injection="SIGSTOP the primary under read and write load, SIGCONT later",
        module="drills.hang",
        needs=("a model bundle",),
    ),
    Drill(
        name="hang_in_transaction",
        hypothesis="as hang, though the primary holds the locks of an append",
        injection="stop the primary between the INSERT and the COMMIT of an append, SIGCONT later",
        module="drills.hang_in_transaction",
        needs=("a model bundle",),
    ),
    Drill(
        name="standby_hang",
        hypothesis="no read fails, and 99 of 100 are answered within 100 ms",
        injection="SIGSTOP a standby under read and write load, SIGCONT later",
        module="drills.standby_hang",
        needs=("a model bundle",),
    ),
    Drill(
        name="double_fault",
        hypothesis="reads go on, writes are back within 1.5 s (median), nothing is lost or doubled",
        injection="kill -9 the primary and SIGSTOP a standby at once, under read and write load",
        module="drills.double_fault",
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
