"""Drill: every replica is drained and restarted in turn, with a planned transfer of the lease in the middle,
under read and write load.

    python -m drills.rolling_restart --runs 3 --json --journal DIR --replicas 3
    python -m drills.rolling_restart --target HOST:PORT,...    a running service: transfers alone
    python -m drills.rolling_restart --without turns    the negative control: all of them at once

Hypothesis: no read and no write fails, no acknowledged write is lost or doubled, epochs never fall.

Reads and writes go through `muster.client`, as an application's would: what it retries within the caller's
deadline is its business, what the caller sees as an error is a deviation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import grpc

from drills import failover
from drills.experiment import Experiment, Judgement, Verdict
from drills.failover import (
    Rehearsal,
)
from drills.faults.process import Clustered, sole_primary
from drills.journal import History
from drills.judges.checks import STALL_MS, TIMED_OUT, generator_stall_ms, steady_reads
from drills.judges.history import OK, check_epochs, check_sessions, check_writes
from drills.rehearsal import OnService, Rehearsable, read_load
from drills.rig.cluster import Cluster, ClusterError, Replica
from muster.v1 import admin_pb2, admin_pb2_grpc

NAME = "rolling_restart"
HYPOTHESIS = "no read and no write fails, no acknowledged write is lost or doubled"
EMPTY: dict[str, Any] = {
    "runs": 0,
    "restarts": 0,
    "reigns_ended": 0,
    "transfers": 0,
    "reads": 0,
    "read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
    "slowest_read_ms": None,
    "slowest_write_ms": None,
}
_STARVED = (TIMED_OUT, "Unavailable")
"""What calls end with on a machine that keeps its processes waiting: time-outs, their own or of a ping."""

DRAIN_S = 60.0
TRANSFER_S = 30.0
PAUSE_S = 0.5
TURNS = "turns"


@dataclass(frozen=True)
class RestartInTurn:
    """Drains each replica, waits for it to end by itself, starts it again; in the middle the primary is asked
    to give the lease away. A replica that does not end with code 0, or that does not come back, is noted and
    ends the turn.
    """

    name: str = "restart"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """The whole turn; "steps" tells what was done, in order."""
        cluster = subject.cluster
        steps: list[dict[str, Any]] = []
        instant_s = time.monotonic()
        middle = len(cluster.replicas) // 2
        try:
            primary = cluster.wait_primary(DRAIN_S)
            # The primary first: whoever has the lease later, at least one reign ends by a drain.
            turn = sorted(cluster.replicas, key=lambda replica: replica is not primary)
            for number, replica in enumerate(turn):
                if number == middle:
                    steps.append(self._transfer(cluster))
                steps.append(self._restart(cluster, replica, cluster.wait_primary(DRAIN_S) is replica))
                # Clients must find it again before the next one goes.
                time.sleep(PAUSE_S)
        except (ClusterError, grpc.RpcError) as error:
            steps.append({"step": "failed", "problem": f"{type(error).__name__}: {error}"[:1000]})
        return {"steps": steps, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Starts every replica that is not running."""
        for replica in subject.cluster.replicas:
            subject.cluster.restart(replica)

    def _restart(self, cluster: Cluster, replica: Replica, was_primary: bool) -> dict[str, Any]:
        began_s = time.monotonic()
        stub = admin_pb2_grpc.AdminServiceStub(cluster.channel(replica))
        stub.Drain(admin_pb2.DrainRequest(), timeout=DRAIN_S)
        assert replica.process is not None
        cluster.wait(f"replica {replica.name} has left", DRAIN_S, lambda: not replica.running)
        code = replica.process.returncode
        left_s = time.monotonic()
        if code != 0:
            raise ClusterError(f"replica {replica.name} was drained and ended with code {code}")
        cluster.restart(replica)
        return {
            "step": "restart",
            "replica": replica.name,
            "was_primary": was_primary,
            "left_ms": round((left_s - began_s) * 1000),
            "back_ms": round((time.monotonic() - left_s) * 1000),
        }

    def _transfer(self, cluster: Cluster) -> dict[str, Any]:
        primary = cluster.wait_primary(DRAIN_S)
        began_s = time.monotonic()
        stub = admin_pb2_grpc.AdminServiceStub(cluster.channel(primary))
        answer = stub.TransferLease(admin_pb2.TransferLeaseRequest(), timeout=TRANSFER_S)
        if answer.primary in ("", primary.name):
            raise ClusterError(f"no other replica took the lease from {primary.name}")
        return {
            "step": "transfer",
            "from": primary.name,
            "to": answer.primary,
            "epoch": answer.epoch,
            "took_ms": round((time.monotonic() - began_s) * 1000),
        }


@dataclass(frozen=True)
class TransferInTurn(RestartInTurn):
    """The primary of a running service gives the lease away, as often as there are replicas."""

    name: str = "transfer"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """All transfers; "steps" tells what was done, in order."""
        steps: list[dict[str, Any]] = []
        instant_s = time.monotonic()
        try:
            for _ in subject.cluster.replicas:
                steps.append(self._transfer(subject.cluster))
                time.sleep(PAUSE_S)
        except (ClusterError, grpc.RpcError) as error:
            steps.append({"step": "failed", "problem": f"{type(error).__name__}: {error}"[:1000]})
        return {"steps": steps, "instant_s": instant_s}


@dataclass(frozen=True)
class RestartAtOnce(RestartInTurn):
    """The same for all replicas at one time."""

    name: str = "restart at once"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Restarts them; "steps" tells what was done, in order."""
        cluster = subject.cluster
        primary = sole_primary(cluster)
        instant_s = time.monotonic()

        def restart(replica: Replica) -> dict[str, Any]:
            try:
                return self._restart(cluster, replica, replica is primary)
            except (ClusterError, grpc.RpcError) as error:
                return {"step": "failed", "problem": f"{type(error).__name__}: {error}"[:1000]}

        with ThreadPoolExecutor(len(cluster.replicas)) as threads:
            steps = list(threads.map(restart, cluster.replicas))
        return {"steps": steps, "instant_s": instant_s}


def judge_rolling_restart(history: History, *, written: bool = True) -> Judgement:
    """Judges one run: nothing that the caller sees may fail, and the log holds what was acknowledged.

    written: whether callers write.
    """
    reads, writes = steady_reads(history), history.of("write")
    fault = history.first("fault")
    steps: list[dict[str, Any]] = [] if fault is None else fault["steps"]
    restarts = [step for step in steps if step["step"] == "restart"]
    epochs = check_epochs(history)
    findings = check_writes(history)
    failed = [call for call in (*reads, *writes) if call["status"] != OK]
    figures: dict[str, Any] = {
        "restarts": len(restarts),
        "reigns_ended": sum(step["was_primary"] for step in restarts),
        "transfers": sum(step["step"] == "transfer" for step in steps),
        "reads": len(reads),
        "read_errors": sum(read["status"] != OK for read in reads),
        "writes_acknowledged": 0 if findings is None else findings.acknowledged,
        "write_errors": sum(write["status"] != OK for write in writes),
        "writes_lost": 0 if findings is None else len(findings.lost),
        "writes_doubled": 0 if findings is None else len(findings.doubled),
        "epochs_monotone": not epochs,
        "slowest_read_ms": _slowest_ms(reads),
        "slowest_write_ms": _slowest_ms(writes),
    }
    if fault is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no replica was restarted",))
    deviations = [step["problem"] for step in steps if "problem" in step]
    deviations += [*epochs, *check_sessions(history)]
    if findings is not None:
        deviations += findings.problems()
    doubts: list[str] = []
    stall_ms = generator_stall_ms(history)
    if failed and stall_ms > STALL_MS and all(call["status"] in _STARVED for call in failed):
        doubts.append(
            f"{len(failed)} calls were not answered in time, but this machine kept the load generator itself "
            f"waiting for up to {stall_ms:.0f} ms: too busy to judge"
        )
    else:
        deviations += [
            f"a {call['kind']} at {call['intended_s']:.3f} s ended with {call['status']}: {call['detail']}"
            for call in failed[:3]
        ]
    if findings is None:
        doubts.append("the log could not be read to its end, so nothing is known of lost writes")
    if not reads or (written and not writes):
        doubts.append("there was no load to fail")
    if deviations:
        return Judgement(Verdict.DEVIATED, figures, tuple(deviations))
    if doubts:
        return Judgement(Verdict.INCONCLUSIVE, figures, tuple(doubts))
    return Judgement(Verdict.HELD, figures)


def _slowest_ms(calls: Sequence[dict[str, Any]]) -> float | None:
    """Of the calls that were answered; None: none was."""
    took = [(call["done_s"] - call["sent_s"]) * 1000.0 for call in calls if call["status"] == OK]
    return round(max(took), 1) if took else None


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The rolling restart as a value: the failover's load and steady state under another fault."""
    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=1.0, store=given.store),
        name=NAME,
        hypothesis=HYPOTHESIS,
        fault=RestartAtOnce() if given.without == TURNS else RestartInTurn(),
        judge=judge_rolling_restart,
    )


def on_service(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """Transfers alone, of a running service's lease, as a value."""
    whole = experiment(seed, given)
    return replace(
        whole,
        load=read_load,
        fault=TransferInTurn(),
        judge=lambda history: judge_rolling_restart(history, written=False),
        probes=tuple(probe for probe in whole.probes if probe.name != "writes are acknowledged"),
    )


def shown(judgement: Judgement) -> str:
    """One turn in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['restarts']} restarts, {figures['transfers']} transfers, {figures['read_errors']} of "
        f"{figures['reads']} reads and {figures['write_errors']} writes failed"
    )


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    experiment=experiment,
    shown=shown,
    protections=(TURNS,),
    runs_help="turns over all replicas",
    on_service=OnService("transfer", on_service),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
