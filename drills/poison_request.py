"""Drill: malformed and strange requests, again and again, beside the load of decent callers.

    python -m drills.poison_request --json
    python -m drills.poison_request --target HOST:PORT,...    to a running service; no writes
    python -m drills.poison_request --messages 100000     and so many mutated messages, as fast as they go
    python -m drills.poison_request --plant crash     the negative control: a replica really ends

Hypothesis: each is refused with a clear status, or answered where it is legal; none ends a replica, none
hangs, the replicas' memory stays flat, and no decent caller's call fails.

No input is known that crashes a replica; this drill and the fuzz targets go on looking. Each request goes to
each replica several times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drills.experiment import Experiment, Inconclusive, Judgement
from drills.failover import Rehearsal
from drills.journal import History, Journal
from drills.judges.hostile import judge_mutated
from drills.outcome import positive
from drills.oversized_payload import EMPTY as ATTACKED
from drills.oversized_payload import PER_S, Attack, attacked, on_service
from drills.oversized_payload import shown as attack_shown
from drills.rehearsal import OnService, Rehearsable
from drills.rig.hostile import poison
from drills.rig.mutated import Mutated, send_mutated

NAME = "poison_request"
HYPOTHESIS = (
    "malformed and strange requests are refused or answered, none ends or fills a replica, and others are"
    " served"
)
CRASH = "crash"
EMPTY: dict[str, Any] = {**ATTACKED, "mutated": 0, "mutated_unexpected": 0}


@dataclass
class Mutations(Attack):
    """The same, and `messages` mutated messages to one replica beside it."""

    messages: int = 0
    mutated: Mutated | None = None
    _sending: threading.Thread | None = field(default=None)

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Begins both."""
        told = super().inject(rehearsal)
        address = next(iter(self.addresses(rehearsal).values()))
        self._sending = threading.Thread(target=self._send, args=(address,), daemon=True)
        self._sending.start()
        return {**told, "messages": self.messages}

    def rollback(self, rehearsal: Rehearsal) -> None:
        """Ends once all messages were answered."""
        if self._sending is not None:
            self._sending.join()
        super().rollback(rehearsal)

    def record(self, journal: Journal) -> None:
        """What became of both."""
        super().record(journal)
        if self.mutated is None:
            return
        told = self.mutated
        journal.write(
            "mutated",
            sent=told.sent,
            lost=told.lost,
            unexpected=told.unexpected,
            statuses=dict(told.statuses),
        )

    def _send(self, address: str) -> None:
        try:
            self.mutated = asyncio.run(send_mutated(address, self.messages, self.messages))
        except (OSError, TimeoutError):
            # The judge finds nothing of them, and whether the replica has ended.
            self.mutated = None


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The strange requests as a value."""
    crash = given.plant == CRASH
    if not given.messages:
        whole = attacked(NAME, HYPOTHESIS, given, Attack(poison(seed), PER_S, crash=crash))
        return replace(whole, seed=seed)
    whole = attacked(
        NAME, HYPOTHESIS, given, Mutations(poison(seed), PER_S, crash=crash, messages=given.messages)
    )

    def judge(history: History) -> Judgement:
        return judge_mutated(history, whole.judge(history), given.messages)

    return replace(whole, seed=seed, judge=judge)


def shown(judgement: Judgement) -> str:
    """One attack in a few words."""
    mutated = judgement.figures.get("mutated")
    return attack_shown(judgement) + (f", {mutated} mutated messages" if mutated else "")


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--plant", choices=(CRASH,), help="a fault that the judge must find")
    options.add_argument(
        "--messages",
        type=positive(int),
        default=None,
        metavar="N",
        help="send one replica of the drill's own so many mutated messages as well",
    )


def served(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The strange requests to a running service. Raises: Inconclusive where as many as can be are asked
    for."""
    if given.messages:
        raise Inconclusive("--messages is for a replica of the drill's own: leave out --target")
    return on_service(experiment(seed, given), given)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    shown=shown,
    runs_help="attacks",
    on_service=OnService("malformed", served),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
