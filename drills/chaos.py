"""Probes and actions for the Chaos Toolkit: plain functions that an experiment file names.

    "provider": {"type": "python", "module": "drills.chaos", "func": "reads_are_answered",
                 "arguments": {"target": "127.0.0.1:7461,127.0.0.1:7462"}}

Probes look at a running service and change nothing. Of the actions, `transfer_lease` asks a running service
for a planned takeover; `run_drill` does a whole drill to replicas of its own and leaves a running one alone.
`examples/chaos/planned_takeover.json` is an experiment.
"""

from __future__ import annotations

import io
import json
import shlex
from contextlib import redirect_stdout
from typing import Any

from drills.book import find
from muster.client import Client, MusterError
from muster.v1 import admin_pb2

DEADLINE_MS = 2_000.0


def reads_are_answered(
    target: str, query: str = "shoe", searches: int = 20, deadline_ms: float = 200.0
) -> bool:
    """Whether every one of so many searches is answered within the deadline."""
    with Client(target) as client:
        try:
            for _ in range(searches):
                client.search(query, deadline_ms=deadline_ms)
        except MusterError:
            return False
    return True


def all_replicas_answer(target: str) -> bool:
    """Whether every replica that is named tells its status."""
    with Client(target) as client:
        return all(entry.status is not None for entry in client.status(deadline_ms=DEADLINE_MS))


def primaries(target: str) -> int:
    """How many replicas say that they are the primary; one is as it should be."""
    with Client(target) as client:
        entries = client.status(deadline_ms=DEADLINE_MS)
    return sum(entry.status is not None and entry.status.role == admin_pb2.ROLE_PRIMARY for entry in entries)


def transfer_lease(target: str, deadline_ms: float = 10_000.0) -> dict[str, Any]:
    """Has the primary give the lease to another replica. Raises: MusterError."""
    with Client(target) as client:
        answer = client.transfer_lease(deadline_ms=deadline_ms)
    return {"primary": answer.primary, "epoch": answer.epoch}


def run_drill(name: str, options: str = "") -> dict[str, Any]:
    """Does a drill of the book to replicas of its own, and returns what it tells; "verdict" is held, deviated
    or inconclusive. options: as on its command line. Raises: UnknownDrill; ValueError where it told nothing.
    """
    drill = find(name)
    told = io.StringIO()
    with redirect_stdout(told):
        drill.run([*shlex.split(options), "--json"])
    outcome: dict[str, Any] = json.loads(told.getvalue())
    return outcome
