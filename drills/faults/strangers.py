"""Attackers with forged, guessed, overheard and revoked tokens, beside newcomers with good new ones."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from drills.experiment import Inconclusive
from drills.failover import Rehearsal
from drills.faults.process import sole_primary
from drills.journal import Journal
from drills.rig.cluster import Cluster, Replica
from drills.rig.drift import scraped
from drills.rig.forged import ABORT, BODIES, STOLEN, kinds
from drills.rig.hostile import SEARCH
from drills.rig.issuer import AUDIENCE, Issuer
from drills.rig.load import OpenLoop, Stream, even_arrivals
from drills.rig.strangers import ATTACK, FRESH, Attackers, Newcomers, places
from muster.audit import AuditError, Record, read, verify

SHARED = "127.0.0.1"
"""Where the decent callers are: some attackers sit behind the same address."""

SOURCES = ("127.0.0.66", "127.0.0.67", SHARED)
NEWCOMERS = ("127.0.0.9",)
_CALL_S = 10.0
_REVOKED_WITHIN_S = 10.0
_HEARD_AFTER_S = 1.2
"""The audit counts refusals that come too fast, and says how many with the first one a second later."""


@dataclass
class Strangers:
    """The fault. For one run. attacks_per_s, fresh_per_s: calls of all attackers, of all newcomers.
    deadline_ms: of each."""

    issuer: Issuer
    attacks_per_s: float
    fresh_per_s: float
    deadline_ms: float = 2_000.0
    name: str = "strangers"
    loop: OpenLoop | None = None

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Makes the decent caller known, has a token stolen, revoked, and another overheard; then begins.

        Raises: Inconclusive where this machine cannot call from several addresses, or a token that is good
        does not work before it is stolen.
        """
        _need_addresses()
        cluster = rehearsal.cluster
        primary = sole_primary(cluster)
        for replica in cluster.replicas:
            cluster.status(replica)
        stolen = self._stolen(cluster)
        overheard = self._overheard(cluster, primary)
        forged = kinds(
            self.issuer, stolen=stolen, reader=self.issuer.token("reader", "read"), overheard=overheard
        )
        addresses = {replica.name: replica.address for replica in cluster.replicas}
        before = counted(cluster)
        attackers = Attackers(places(SOURCES, addresses), forged, deadline_ms=self.deadline_ms)
        newcomers = Newcomers(
            places(NEWCOMERS, addresses),
            lambda number: self.issuer.token(f"newcomer-{number}", "read"),
            deadline_ms=self.deadline_ms,
        )
        self.loop = OpenLoop(
            [
                Stream(ATTACK, even_arrivals(self.attacks_per_s), attackers),
                Stream(FRESH, even_arrivals(self.fresh_per_s), newcomers),
            ]
        )
        instant_s = time.monotonic()
        self.loop.start()
        return {
            "instant_s": instant_s,
            "replicas": len(addresses),
            "sources": len(SOURCES),
            "reasons": sorted({kind.reason for kind in forged}),
            "counted": before,
        }

    def rollback(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Ends it. One more call of an operator is refused at each replica, with which its audit says how
        many it has counted meanwhile."""
        if self.loop is None:
            return {}
        self.loop.stop()
        ended_s = time.monotonic()
        time.sleep(_HEARD_AFTER_S)
        for replica in rehearsal.cluster.replicas:
            _refused(rehearsal.cluster, replica, ABORT, self.issuer.token("reader", "read"))
        return {"instant_s": ended_s, "counted": counted(rehearsal.cluster)}

    def record(self, rehearsal: Rehearsal, journal: Journal) -> None:
        """Writes what became of the calls, and what the audits tell of them, into the history."""
        if self.loop is not None:
            journal.extend(sample.record(journal.start_s) for sample in self.loop.samples)
        for replica in rehearsal.cluster.replicas:
            journal.write("audited", replica=replica.name, **_audited(rehearsal.cluster, replica))

    def _stolen(self, cluster: Cluster) -> str:
        token = self.issuer.token(STOLEN, "read", "write", "admin")
        for replica in cluster.replicas:
            if (code := _refused(cluster, replica, SEARCH, token)) is not None:
                raise Inconclusive(f"a good token was refused at replica {replica.name}: {code}")
        self.issuer.revoke(STOLEN)
        end_s = time.monotonic() + _REVOKED_WITHIN_S
        for replica in cluster.replicas:
            # Where the list is not read, the attack shows it.
            while _refused(cluster, replica, SEARCH, token) is None and time.monotonic() < end_s:
                time.sleep(0.1)
        return token

    def _overheard(self, cluster: Cluster, primary: Replica) -> str:
        token = self.issuer.token("operator", "admin", aud=f"{AUDIENCE}/{primary.name}", once=True)
        if (code := _refused(cluster, primary, ABORT, token)) is not None:
            raise Inconclusive(f"a token for one call was refused at its first: {code}")
        return token


def counted(cluster: Cluster) -> Mapping[str, Mapping[str, Any]]:
    """What the replicas have counted so far, by name: refused (by reason) and verified (signatures looked
    at)."""
    found: dict[str, Mapping[str, Any]] = {}
    for replica in cluster.replicas:
        [page] = scraped([replica.metrics_address()])
        refused = page.get("muster_auth_refused_total", {})
        found[replica.name] = {
            "refused": {labels.partition('"')[2].rpartition('"')[0]: n for labels, n in refused.items()},
            "verified": sum(page.get("muster_auth_verified_total", {}).values()),
        }
    return found


def _refused(cluster: Cluster, replica: Replica, method: str, token: str) -> str | None:
    """The status of a call that was refused; None: it was answered.

    Over a channel without a token of its own, which would be sent beside this one.
    """
    with grpc.insecure_channel(replica.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(method)
        try:
            call(BODIES[method], timeout=_CALL_S, metadata=(("authorization", f"Bearer {token}"),))
        except grpc.RpcError as error:
            return str(error.code().name)
    return None


def _audited(cluster: Cluster, replica: Replica) -> dict[str, Any]:
    """Refused calls of operators that the replica's audit lists or counts, and what is wrong with it."""
    folder = cluster.data_dir / "audit" / replica.name
    try:
        findings = verify(folder).findings
        records = [one for _, _, one in read(folder) if isinstance(one, Record) and one.kind == "refused"]
    except AuditError as error:
        return {"refused": 0, "findings": [str(error)]}
    refused = sum(1 + int(one.detail.get("others_before", 0)) for one in records)
    return {"refused": refused, "findings": [one.text for one in findings]}


def _need_addresses() -> None:
    for source in (*SOURCES, *NEWCOMERS):
        with socket.socket() as tried:
            try:
                tried.bind((source, 0))
            except OSError as error:
                raise Inconclusive(
                    f"this machine cannot call from {source} ({error.strerror}): give it to the loopback"
                ) from error
