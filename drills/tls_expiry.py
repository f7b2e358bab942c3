"""Drill: certificates about to end are exchanged under load, with a broken file in between.

    python -m drills.tls_expiry --json
    python -m drills.tls_expiry --without reload     the control: no new file comes, so none is read again

Every connection is encrypted, with certificates of an authority of the drill's own. Reads and writes go over
connections that stand; beside them each of some searches a second goes over a new one.

Hypothesis: no call and no new connection fails, before, while and after a certificate is exchanged; a file
that is no certificate leaves the one before in force; the metrics and the alert tell in time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement
from drills.failover import Rehearsal, client_streams
from drills.faults.certificates import LONG_S, Expiry
from drills.journal import Journal
from drills.judges.certificates import EXPIRY_FIGURES, ExpiryLimits, judge_expiry
from drills.rehearsal import Changes, Rehearsable
from drills.rig.callers import callers
from drills.rig.certificates import SERVER_NAME, Authority
from drills.rig.cluster import NAMES, ClusterPlan
from drills.rig.handshakes import KIND, Handshakes
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.traffic import RecordedLoad

NAME = "tls_expiry"
HYPOTHESIS = (
    "certificates that are about to end are exchanged under load, a broken file in between, and no call and"
    " no new connection fails; the alert comes before the end and goes with the exchange"
)
EMPTY: dict[str, Any] = {"runs": 0, **EXPIRY_FIGURES}
RELOAD = "reload"
SHORT_S, BROKEN_AFTER_S, EXCHANGED_AFTER_S = 18.0, 3.0, 12.0
DURATION_S = 22.0
CONNECTIONS_PER_S = 5.0
CONNECTION_DEADLINE_MS = 5_000.0


def _authority(given: argparse.Namespace) -> Authority:
    """The one of this run, made once."""
    if getattr(given, "authority", None) is None:
        given.authority = Authority(given.folder / f"identity-{uuid.uuid4().hex[:8]}")
    authority: Authority = given.authority
    return authority


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The exchange as a value."""
    authority = _authority(given)
    expiry = Expiry(authority, SHORT_S, BROKEN_AFTER_S, EXCHANGED_AFTER_S, exchange=given.without != RELOAD)

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        handshakes = Handshakes(
            rehearsal.reached_at, authority.believed(), deadline_ms=CONNECTION_DEADLINE_MS
        )
        new = Stream(KIND, even_arrivals(CONNECTIONS_PER_S), handshakes)
        rehearsal.load = RecordedLoad(OpenLoop([*client_streams(rehearsal, seed), new]), journal)
        return rehearsal.load

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        failover.collect_log(rehearsal, journal)
        expiry.record(journal)
        if (alerts := rehearsal.cluster.alerts) is not None:
            journal.write("watched")
            journal.extend({"kind": "told", **one} for one in alerts.settled(journal.started_unix_s))

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=DURATION_S),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        fault=expiry,
        judge=lambda history: judge_expiry(history, ExpiryLimits()),
        collect=collect,
    )


def changes(given: argparse.Namespace) -> Changes:
    """Replicas that encrypt, each with a certificate of its own, and clients that believe their authority."""
    authority = _authority(given)

    def plan(plan: ClusterPlan) -> ClusterPlan:
        own = {}
        for name in NAMES[: plan.replicas]:
            certificate, key = authority.paths(name)
            own[name] = {"tls": {"certificate": certificate.resolve(), "key": key.resolve()}}
        return replace(plan, own_settings={**plan.own_settings, **own})

    @contextlib.contextmanager
    def around(folder: Path) -> Iterator[None]:
        authority.folder.mkdir(parents=True, exist_ok=True)
        authority.publish()
        for name in NAMES[: given.replicas]:
            authority.sign(name, LONG_S)
        with callers({"MUSTER_TLS_CA": str(authority.path), "MUSTER_TLS_SERVER_NAME": SERVER_NAME}):
            yield

    return Changes(
        settings={"lease": {"ttl_ms": 5000}, "metrics": {"listen": "127.0.0.1:0"}},
        plan=plan,
        around=around,
        noted={"short_s": SHORT_S},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['connection_errors']} of {figures['connections']} new connections failed, "
        f"{figures['exchanges']} exchanges in use after {figures['exchanged_ms']} ms at most, the alert came "
        f"{figures['alert_before_end_s']} s before the end"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(RELOAD,),
    runs_help="exchanges",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
