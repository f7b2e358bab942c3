"""Drill: the primary hangs (SIGSTOP) under read and write load, and is woken later (SIGCONT).

    python -m drills.hang --runs 20 --json --journal DIR
    python -m drills.hang --store postgresql    the same on a PostgreSQL server, which the drill starts
    python -m drills.hang --without lease       the replicas' lease lasts a minute: must deviate

Hypothesis: writes are back within the lease's life + 200 ms (median over the runs), no read fails, no
acknowledged write is lost or doubled, every epoch has one primary, and the writes that wait in the stopped
process change nothing when it wakes.

On SQLite nothing wakes: whoever takes over kills the holder, which may be frozen inside a transaction. The
record says so ("killed"), and it is started again. On PostgreSQL its sessions are ended and it wakes to find
itself fenced ("woken").
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Fault, Judgement
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    check_replicas,
    collect_log,
    draw,
    each_run,
    load_options,
    rehearse_on_cluster,
    setup_of,
)
from drills.faults.process import StopPrimary
from drills.journal import Journal
from drills.judges.checks import FailoverLimits
from drills.judges.hang import judge_hang, judge_hang_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.rig.cluster import Cluster

NAME = "hang"
HYPOTHESIS = (
    "writes are back within the lease's life + 200 ms (median), no read fails, no acknowledged write is lost"
    " or doubled, every epoch has one primary, and a primary that wakes late changes nothing"
)
EMPTY: dict[str, Any] = {
    **failover.EMPTY,
    "killed": 0,
    "woken": 0,
    "late_writes": 0,
    "late_acknowledged": 0,
}
LEASE = "lease"
"""The protection against a primary that hangs."""

LEASE_TTL_MS = 500
ENDLESS_TTL_MS = 60_000
BEYOND_LEASE_MS = 200.0
"""For the standbys to look, to make sure of the holder's end, and to begin their reign."""

DURING_S = 2.0
_REIGN = re.compile(r"this replica is the primary of epoch (\d+)")


@dataclass(frozen=True)
class Hang:
    """One of the drills in which a primary hangs, or dies beside a standby that hangs.

    fault: for one run. lease_ttl_ms: of the replicas, as the hypothesis counts with it. without: the
    protection that is switched off, if any. during_s: how long the fault lasts.
    """

    name: str
    hypothesis: str
    fault: Callable[[], Fault[Rehearsal]]
    limits: FailoverLimits
    lease_ttl_ms: int = LEASE_TTL_MS
    without: str | None = None
    during_s: float = DURING_S

    def experiment(self, seed: int, bundle: Path | None, store: str) -> Experiment[Rehearsal]:
        """One run as a value: the failover's load and steady state under another fault."""
        return replace(
            failover.experiment(seed=seed, bundle=bundle, during_s=self.during_s, store=store),
            name=self.name,
            hypothesis=self.hypothesis,
            fault=self.fault(),
            judge=judge_hang,
            collect=collect,
        )


def collect(rehearsal: Rehearsal, journal: Journal) -> None:
    """The log, and which replica says of itself that it was primary of which epoch."""
    collect_log(rehearsal, journal)
    journal.extend(
        {"kind": "reign", "at_s": journal.elapsed_s(journal.start_s), **reign}
        for reign in reigns(rehearsal.cluster)
    )


def reigns(cluster: Cluster) -> list[dict[str, Any]]:
    """Every reign since the cluster began, from what each replica has written about itself."""
    return [
        {"replica": replica.name, "epoch": int(epoch)}
        for replica in cluster.replicas
        for epoch in _REIGN.findall(replica.log_text())
    ]


def run(hang: Hang, setup: Setup) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; returns the judgement over all runs and the details for the
    record."""
    plan, store = setup["plan"], setup.get("store", failover.SQLITE)
    ttl_ms = ENDLESS_TTL_MS if hang.without == LEASE else hang.lease_ttl_ms
    setup["plan"] = replace(plan, settings={**plan.settings, "lease": {"ttl_ms": ttl_ms}})
    setup["control"] = bool(hang.without)
    drill = Rehearsed(hang.name, lambda seed: hang.experiment(seed, plan.bundle, store), shown)
    outcomes, settings = rehearse_on_cluster(drill, setup)
    judgement = judge_hang_runs([one for one, _ in outcomes], hang.limits)
    figures = {"runs": len(outcomes), **judgement.figures}
    details: dict[str, Any] = {
        **settings,
        "lease_ttl_ms": ttl_ms,
        "without": hang.without,
        "rto_limit_ms": hang.limits.rto_ms,
        "each": each_run(outcomes),
    }
    details["plot"] = str(draw(outcomes, setup["folder"], setup["traffic"], hang.name))
    return Judgement(judgement.verdict, figures, judgement.reasons), details


def shown(judgement: Judgement) -> str:
    """One run's outcome in a few words."""
    figures = judgement.figures
    rto = figures.get("rto_ms")
    told = "no recovery seen" if rto is None else f"writes back after {rto:.0f} ms"
    ended = "the holder was killed" if figures.get("killed") else "the holder woke"
    return f"{told}, {ended}" if figures.get("killed") or figures.get("woken") else told


def options_of(name: str, hypothesis: str, *, protections: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of these drills."""
    options = parser(name, hypothesis)
    options.add_argument("--runs", type=positive(int), default=5, help="how often it is done")
    load_options(options)
    options.add_argument(
        "--without", choices=tuple(protections), help="switch a protection off, to see the drill deviate"
    )
    return options


def command(
    arguments: Sequence[str],
    *,
    name: str,
    hypothesis: str,
    fault: Callable[[], Fault[Rehearsal]],
    run: Callable[[Hang, Setup], tuple[Judgement, dict[str, Any]]],
) -> int:
    """Runs a drill of a primary that hangs from a command line; returns the exit code."""
    options = options_of(name, hypothesis, protections=(LEASE,))
    options.add_argument(
        "--lease-ttl-ms", type=positive(int), default=LEASE_TTL_MS, help="of the replicas' lease"
    )
    given = options.parse_args(list(arguments))
    check_replicas(options, given)
    folder = run_folder(given.journal, name)

    def body() -> int:
        hang = Hang(
            name,
            hypothesis,
            fault,
            FailoverLimits(rto_ms=given.lease_ttl_ms + BEYOND_LEASE_MS),
            lease_ttl_ms=given.lease_ttl_ms,
            without=given.without,
        )
        judgement, details = run(hang, setup_of(given, folder))
        return tell(name, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(name, body, as_json=given.json, empty=EMPTY)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return command(arguments, name=NAME, hypothesis=HYPOTHESIS, fault=StopPrimary, run=run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
