"""Drill: attackers with guessed, forged, overheard, expired and revoked tokens, beside decent callers.

    python -m drills.auth_attack --json
    python -m drills.auth_attack --without limits     the control: bad tokens of an address are looked at
                                                      without end

Replicas ask for tokens, which an identity provider of the drill's own issues. Attackers call from three
addresses, one of them that of the decent callers; newcomers from a fourth bring a new good token with each
search.

Hypothesis: no attacker is let in; what replicas look at is bounded, whatever comes; callers with good tokens
notice nothing; the metrics count each refusal by its reason, and the audit tells of each refused call of an
operator.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal
from drills.faults.strangers import Strangers
from drills.journal import Journal
from drills.judges.strangers import STRANGER_FIGURES, StrangerLimits, judge_strangers
from drills.rehearsal import Changes, Rehearsable
from drills.rig.callers import callers
from drills.rig.issuer import AUDIENCE, ISSUER, Issuer, replace_file

NAME = "auth_attack"
HYPOTHESIS = (
    "no guessed, forged, replayed, expired or revoked token opens anything, those of an address that goes on"
    " are soon refused unseen, no caller with a good one fails, and metrics and audit tell of it"
)
EMPTY: dict[str, Any] = {"runs": 0, **STRANGER_FIGURES}
LIMITS = "limits"
BURST, PER_S = 20, 0.5
"""Bad tokens of an address that replicas look at, at once and a second."""

UNLIMITED_BURST, UNLIMITED_PER_S = 1_000_000, 1000.0
ATTACKS_PER_S, FRESH_PER_S = 90.0, 5.0
DURATION_S = 10.0
"""At ten attacks a second each place is refused unseen after some four seconds."""


def _issuer(given: argparse.Namespace) -> Issuer:
    """The one of this run, made once."""
    if getattr(given, "issuer", None) is None:
        given.issuer = Issuer(given.folder / "identity")
    issuer: Issuer = given.issuer
    return issuer


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The attack as a value."""
    strangers = Strangers(_issuer(given), ATTACKS_PER_S, FRESH_PER_S)

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        failover.collect_log(rehearsal, journal)
        strangers.record(rehearsal, journal)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=DURATION_S),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=strangers,
        # Promised is what the drill asks of whole replicas, with or without the protection.
        judge=lambda history: judge_strangers(history, StrangerLimits(BURST, PER_S)),
        collect=collect,
    )


def changes(given: argparse.Namespace) -> Changes:
    """Replicas that ask who calls, and a token for the drill's own callers."""
    issuer = _issuer(given)
    limited = given.without != LIMITS
    auth = {
        "mode": "required",
        "keys": issuer.keys.resolve(),
        "revoked": issuer.revoked.resolve(),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "failures_burst": BURST if limited else UNLIMITED_BURST,
        "failures_per_s": PER_S if limited else UNLIMITED_PER_S,
    }

    @contextlib.contextmanager
    def around(folder: Path) -> Iterator[None]:
        issuer.folder.mkdir(parents=True, exist_ok=True)
        issuer.publish()
        token = issuer.folder / "decent.token"
        replace_file(token, issuer.token("decent", "read", "write", "admin").encode())
        with callers({"MUSTER_TOKEN_FILE": str(token)}):
            yield

    return Changes(
        settings={
            "auth": auth,
            "lease": {"ttl_ms": 5000},
            "metrics": {"listen": "127.0.0.1:0"},
        },
        around=around,
        noted={"failures_burst": auth["failures_burst"], "failures_per_s": auth["failures_per_s"]},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['accepted']} of {figures['attacks']} attacks let in, {figures['limited']} refused unseen,"
        f" {figures['verified']} tokens looked at; {figures['fresh_errors']} of {figures['fresh']} newcomers"
        f" and {figures['read_errors']} of {figures['reads']} reads failed"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(LIMITS,),
    runs_help="attacks",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
