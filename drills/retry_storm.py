"""Drill: all replicas stand still for a while, and everybody comes back at once.

    python -m drills.retry_storm --json
    python -m drills.retry_storm --target HOST:PORT,...    to a running service, by cutting the way to it
    python -m drills.retry_storm --without budget    the negative control: our client retries as it likes

Hypothesis: beside many clients that ask again at once, without pause, jitter or budget, the service answers
everybody in time within 5 s after those have ended; and the client of this project never sends more than its
budgets of retries and hedges allow.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Judgement, Probe
from drills.failover import (
    Rehearsal,
    all_serve_reads,
    reads_are_answered,
)
from drills.faults.network import proxy_of
from drills.faults.process import bring_back
from drills.journal import History, Journal
from drills.judges.retries import RetryLimits, judge_retry_storm
from drills.outcome import positive
from drills.partition import collect
from drills.rehearsal import Changes, OnService, Rehearsable
from drills.rig.load import OpenLoop, Stream, poisson_arrivals
from drills.rig.rude import RudeClients
from drills.rig.shop import requests_for
from drills.rig.traffic import ClientReads, RecordedLoad
from muster.client import ClientSettings

NAME = "retry_storm"
HYPOTHESIS = (
    "after an outage of all replicas the service is back within 5 s after a storm of retries ends, and our"
    " client never exceeds its budget of retries"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "recovered_ms": None,
    "rude_sent": 0,
    "rude_answered": 0,
    "reads": 0,
    "read_errors": 0,
    "sendings": 0,
    "allowed": 0,
    "amplification": None,
}
OUTAGE_S = 2.0
STORM_S = 4.0
"""How long the rude ones go on after the replicas are back."""

CLIENTS = 2
"""Of ours; few, so that each has enough to do to feel its budget."""

RUDE = 60
BUDGET = "budget"


class OurReads:
    """Searches by several clients of ours in turn, and how often these really sent them."""

    def __init__(
        self,
        addresses: Sequence[str],
        queries: Sequence[str],
        *,
        deadline_ms: float,
        settings: ClientSettings,
    ) -> None:
        self._callers = [
            ClientReads(addresses, queries, deadline_ms=deadline_ms, settings=settings)
            for _ in range(CLIENTS)
        ]
        self.sendings: list[tuple[int, int]] = []

    async def open(self) -> None:
        """Makes the clients."""
        for caller in self._callers:
            await caller.open()

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search by one of them; `client` says by which."""
        turn = index % len(self._callers)
        status, fields = await self._callers[turn].call(index // len(self._callers), intended_s)
        return status, {**fields, "client": turn}

    async def close(self) -> None:
        """Closes them, and keeps what they have counted."""
        self.sendings = [caller.sendings() for caller in self._callers]
        for caller in self._callers:
            await caller.close()


@dataclass
class StopAll:
    """SIGSTOP of all replicas while the rude clients are at it, for a while; these go on for a while after.
    Undone by waking or starting the replicas and ending the clients. For one run."""

    clients: int
    deadline_ms: float
    name: str = "outage"
    rate_max_per_s: float | None = None
    rude: RudeClients | None = None
    _waking: threading.Thread | None = field(default=None)

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Begins; returns once the replicas are awake again."""
        requests = requests_for(rehearsal.queries)
        self.rude = RudeClients(
            list(rehearsal.reached_at.values()),
            requests,
            clients=self.clients,
            deadline_ms=self.deadline_ms,
            rate_max_per_s=self.rate_max_per_s,
        )
        self.rude.start()
        # So that their connections stand when the outage begins.
        time.sleep(0.5)
        instant_s = time.monotonic()
        self._begin_outage(rehearsal)
        time.sleep(max(0.0, instant_s + OUTAGE_S - time.monotonic()))
        self._end_outage(rehearsal)
        return {"instant_s": instant_s, "outage_s": OUTAGE_S, "clients": self.clients}

    def _begin_outage(self, rehearsal: Rehearsal) -> None:
        for replica in rehearsal.cluster.replicas:
            rehearsal.cluster.stop(replica)

    def _end_outage(self, rehearsal: Rehearsal) -> None:
        for replica in rehearsal.cluster.replicas:
            rehearsal.cluster.wake(replica)

    def rollback(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Ends the clients; "rude_sent", "rude_answered": their searches. Starts a replica that another one
        has ended for its expired lease."""
        if self.rude is not None:
            self.rude.stop()
        instant_s = time.monotonic()
        self._end_outage(rehearsal)
        bring_back(rehearsal.cluster)
        sent, answered = (0, 0) if self.rude is None else (self.rude.sent, self.rude.answered)
        return {"instant_s": instant_s, "rude_sent": sent, "rude_answered": answered}


@dataclass
class HoldAll(StopAll):
    """The same for a running service, which goes on: nothing passes between it and the drill's own clients.
    These send no more than `rate_max_per_s`."""

    name: str = "nothing passes"

    def _begin_outage(self, rehearsal: Rehearsal) -> None:
        for link in proxy_of(rehearsal).links.values():
            link.cut()

    def _end_outage(self, rehearsal: Rehearsal) -> None:
        proxy_of(rehearsal).heal()


def on_service(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The storm against a running service as a value."""
    rude_per_s = max(1.0, given.rate_per_s - given.reads)
    fault = HoldAll(given.clients, given.deadline_ms, rate_max_per_s=rude_per_s)
    return replace(experiment(seed, given), fault=fault)


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One storm as a value."""
    around = frozenset({"before", "after"})
    limits = RetryLimits(deadline_ms=given.deadline_ms)
    ours: list[OurReads] = []

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        traffic = rehearsal.traffic
        caller = OurReads(
            list(rehearsal.reached_at.values()),
            rehearsal.queries,
            deadline_ms=traffic.read_deadline_ms,
            settings=traffic.client or ClientSettings(),
        )
        ours.append(caller)
        loop = OpenLoop([Stream("read", poisson_arrivals(traffic.reads_per_s, seed), caller)])
        rehearsal.load = RecordedLoad(loop, journal)
        return rehearsal.load

    def collected(rehearsal: Rehearsal, journal: Journal) -> None:
        # What is allowed is what the client states by default, whatever this run has switched off.
        stated = ClientSettings()
        for number, (reads, sent) in enumerate(ours[-1].sendings):
            journal.write(
                "sendings",
                client=number,
                reads=reads,
                sent=sent,
                hedge_share=stated.hedge_share,
                hedge_burst=stated.hedge_burst,
                retry_tokens=stated.retry_tokens_max / 2,
                retry_token_ratio=stated.retry_token_ratio,
            )
        collect(rehearsal, journal)

    def judge(history: History) -> Judgement:
        return judge_retry_storm(history, limits)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        probes=(
            Probe("reads are answered", reads_are_answered, frozenset({"before"})),
            Probe("every replica serves reads", all_serve_reads, around),
        ),
        fault=StopAll(given.clients, given.deadline_ms),
        judge=judge,
        collect=collected,
        before_s=3.0,
        during_s=STORM_S,
        after_s=limits.recovered_ms / 1000.0 + 1.5,
    )


def changes(given: argparse.Namespace) -> Changes:
    """Our client, with its budgets or without."""
    boundless = ClientSettings(
        hedge_share=1.0, hedge_burst=1_000_000, retry_tokens_max=1_000_000, attempts_max=5
    )
    return Changes(
        client=boundless if given.without == BUDGET else None,
        # A running service cannot be stopped; the way to it can.
        proxied=bool(given.target),
        noted={"clients": given.clients},
    )


def shown(judgement: Judgement) -> str:
    """One storm in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['rude_sent']} rude searches; back {figures['recovered_ms']} ms after them; ours sent "
        f"{figures['sendings']} times for {figures['reads']} reads, allowed are {figures['allowed']}"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--clients", type=positive(int), default=RUDE, help="rude ones")
    options.set_defaults(reads=80.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(BUDGET,),
    runs_help="storms",
    on_service=OnService("flood", on_service, everyone=lambda given: True),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
