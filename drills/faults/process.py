"""Things going wrong, each with its undoing. A fault knows the cluster, never the judge."""

from __future__ import annotations

import argparse
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc

from drills.experiment import Inconclusive
from drills.rig.cluster import Cluster, ClusterError, Replica, stands_still
from muster.client import patch
from muster.client.errors import translate
from muster.client.writes import NOT_WRITTEN, REFUSALS, UNKNOWN
from muster.v1 import catalogue_pb2, catalogue_pb2_grpc

STOP_IN_APPEND = "MUSTER_DRILL_STOP_IN_APPEND"
"""Of a replica's environment: the file that stops it inside an append, see `server.catalogue.failpoint`."""

LATE_WRITES = 5
LATE_DEADLINE_S = 20.0
"""Of a write that waits in a stopped process: longer than any drill leaves it stopped."""

_STAND_STILL_S = 5.0
_STEP_S = 0.001


class Clustered(Protocol):
    """A subject that has replicas."""

    @property
    def cluster(self) -> Cluster:
        """The replicas."""
        ...


class Selling(Clustered, Protocol):
    """A subject with replicas and products to change."""

    @property
    def product_ids(self) -> Sequence[str]:
        """Products in the catalogue."""
        ...


def sole_primary(cluster: Cluster) -> Replica:
    """Whoever is primary now. Raises Inconclusive where there is no single one."""
    try:
        return cluster.primary()
    except ClusterError as error:
        raise Inconclusive(str(error)) from error


def one_standby(cluster: Cluster) -> Replica:
    """The first replica that runs and is not the primary. Raises Inconclusive where there is none."""
    primary = sole_primary(cluster)
    for replica in cluster.replicas:
        if replica.running and replica is not primary:
            return replica
    raise Inconclusive(f"{primary.name} is primary and there is no standby to stop")


def bring_back(cluster: Cluster) -> None:
    """Wakes every replica that is stopped and starts every one that is not running."""
    for replica in cluster.replicas:
        cluster.wake(replica)
    for replica in cluster.replicas:
        cluster.restart(replica)


def running(subject: Clustered) -> list[Replica]:
    """The replicas that have not ended."""
    return [replica for replica in subject.cluster.replicas if replica.running]


CORE = "core"
"""The protection of a drill of overload: that the replicas have their cores all the time."""

HALT_S = 0.2


def core_option(options: argparse.ArgumentParser) -> None:
    """Lets a drill of overload be done to replicas that stand still half of the time."""
    options.add_argument(
        "--without",
        choices=(CORE,),
        help="halt the replicas half of the time: the drill must then deviate",
    )


class Halting:
    """Stops and wakes every replica in turn for as long as it lasts, so that half of the time is lost. Does
    nothing unless `wanted`."""

    def __init__(self, cluster: Cluster, *, wanted: bool) -> None:
        self._cluster = cluster
        self._wanted = wanted
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._halt, name="halting", daemon=True)

    def start(self) -> None:
        """From now on."""
        if self._wanted:
            self._thread.start()

    def _halt(self) -> None:
        still = False
        while not self._ended.wait(HALT_S):
            still = not still
            for replica in self._cluster.replicas:
                self._cluster.signal(replica, signal.SIGSTOP if still else signal.SIGCONT)

    def stop(self) -> None:
        """All are awake again. Safe to call twice."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            for replica in self._cluster.replicas:
                self._cluster.wake(replica)


@dataclass(frozen=True)
class KillPrimary:
    """kill -9 of the primary; undone by starting it again, as a standby, at the address it had."""

    name: str = "kill"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Kills whoever is primary now. Raises Inconclusive where there is no single primary."""
        primary = sole_primary(subject.cluster)
        # The recovery counts from before the signal: the time the kernel takes to end the process is the
        # caller's waiting time too.
        instant_s = time.monotonic()
        pid = subject.cluster.kill(primary)
        return {"replica": primary.name, "pid": pid, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> None:
        """Starts every replica that is not running."""
        for replica in subject.cluster.replicas:
            subject.cluster.restart(replica)


@dataclass(frozen=True)
class PausePrimary:
    """Pauses of the primary that are no fault: SIGSTOP and, pause_ms later, SIGCONT, as often as it says. A
    virtual machine that is moved, or a disk that is busy, does the same."""

    pause_ms: float
    pauses: int = 1
    apart_s: float = 0.3
    name: str = "pause"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Pauses whoever is primary now. Raises Inconclusive where there is no single primary."""
        primary = sole_primary(subject.cluster)
        first_s = time.monotonic()
        pid = primary.pid
        for _ in range(self.pauses):
            if not primary.running:
                # Another replica took it for hung.
                break
            instant_s = time.monotonic()
            subject.cluster.stop(primary)
            time.sleep(max(0.0, instant_s + self.pause_ms / 1000.0 - time.monotonic()))
            subject.cluster.wake(primary)
            time.sleep(self.apart_s)
        return {"replica": primary.name, "pid": pid, "pauses": self.pauses, "instant_s": first_s}

    def rollback(self, subject: Clustered) -> None:
        """Starts it again where another replica took it for hung."""
        bring_back(subject.cluster)


@dataclass(frozen=True)
class StopStandby:
    """SIGSTOP of a standby; undone by SIGCONT."""

    name: str = "stop standby"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Stops one standby. Raises Inconclusive where there is none, or no single primary."""
        standby = one_standby(subject.cluster)
        instant_s = time.monotonic()
        pid = subject.cluster.stop(standby)
        return {"replica": standby.name, "pid": pid, "instant_s": instant_s}

    def rollback(self, subject: Clustered) -> dict[str, Any]:
        """Wakes it."""
        instant_s = time.monotonic()
        bring_back(subject.cluster)
        return {"instant_s": instant_s}


@dataclass
class StopPrimary:
    """SIGSTOP of the primary, and writes that then wait in its sockets for its waking; undone by SIGCONT, or
    by starting it again where whoever took over has killed it. For one run.
    """

    name: str = "hang"
    _stopped: Replica | None = None
    _late: dict[str, grpc.Future] = field(default_factory=dict)

    def inject(self, subject: Selling) -> dict[str, Any]:
        """Stops whoever is primary now. Raises Inconclusive where there is no single primary."""
        primary = sole_primary(subject.cluster)
        instant_s = self._stop(subject.cluster, primary)
        self._stopped = primary
        # Over a connection that is open already: nobody answers a new one.
        stub = catalogue_pb2_grpc.CatalogueServiceStub(subject.cluster.channel(primary))
        name = uuid.uuid4().hex[:8]
        for number in range(LATE_WRITES):
            event_id = f"late-{name}-{number}"
            product_id = subject.product_ids[number % len(subject.product_ids)]
            event = patch(product_id, stock=number, event_id=event_id)
            request = catalogue_pb2.ApplyRequest(events=[event])
            self._late[event_id] = stub.Apply.future(request, timeout=LATE_DEADLINE_S)
        return {"replica": primary.name, "pid": primary.pid, "instant_s": instant_s}

    def _stop(self, cluster: Cluster, primary: Replica) -> float:
        """Stops it; returns the last moment at which it was not."""
        instant_s = time.monotonic()
        cluster.stop(primary)
        return instant_s

    def rollback(self, subject: Selling) -> dict[str, Any]:
        """Wakes it, or starts it again. "ended": "woken" or "killed" (by another replica); "late": how each
        of the writes ended that had waited for its waking.
        """
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            bring_back(subject.cluster)
            return {}
        ended = "woken" if stopped.running else "killed"
        instant_s = time.monotonic()
        subject.cluster.wake(stopped)
        late = [late_write(event_id, call) for event_id, call in self._late.items()]
        bring_back(subject.cluster)
        return {"replica": stopped.name, "ended": ended, "late": late, "instant_s": instant_s}


@dataclass
class StopInAppend(StopPrimary):
    """The primary stops itself between the INSERT and the COMMIT of an append; undone as `StopPrimary`.

    trigger: the file that its environment names as STOP_IN_APPEND.
    """

    name: str = "hang in transaction"
    trigger: Path = Path()

    def _stop(self, cluster: Cluster, primary: Replica) -> float:
        self.trigger.touch()
        end_s = time.monotonic() + _STAND_STILL_S
        while True:
            # Before the look, so that what is returned is no later than the stop.
            instant_s = time.monotonic()
            if stands_still(primary.pid):
                return instant_s - _STEP_S
            if instant_s >= end_s:
                raise Inconclusive(
                    f"replica {primary.name} did not stop inside an append; does its environment name"
                    f" {self.trigger} as {STOP_IN_APPEND}, and are there writes?"
                )
            time.sleep(_STEP_S)

    def rollback(self, subject: Selling) -> dict[str, Any]:
        """As `StopPrimary`; nobody else stops."""
        self.trigger.unlink(missing_ok=True)
        return super().rollback(subject)


@dataclass(frozen=True)
class KillPrimaryStopStandby:
    """kill -9 of the primary and SIGSTOP of a standby, at once; undone by starting one and waking the
    other.
    """

    name: str = "kill and hang"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Does both. Raises Inconclusive where there is no single primary, or no standby."""
        # Both are found first: once one of them is silent, asking who is primary takes its time.
        primary = sole_primary(subject.cluster)
        standby = one_standby(subject.cluster)
        instant_s = time.monotonic()
        stopped_pid = subject.cluster.stop(standby)
        pid = subject.cluster.kill(primary)
        return {
            "replica": primary.name,
            "pid": pid,
            "stopped": standby.name,
            "stopped_pid": stopped_pid,
            "instant_s": instant_s,
        }

    def rollback(self, subject: Clustered) -> dict[str, Any]:
        """Wakes one, starts the other."""
        instant_s = time.monotonic()
        bring_back(subject.cluster)
        return {"instant_s": instant_s}


def late_write(event_id: str, call: grpc.Future) -> dict[str, Any]:
    """How a write ended, as the history keeps it."""
    try:
        answer = call.result(timeout=LATE_DEADLINE_S)
    except grpc.FutureTimeoutError:
        return {"event_id": event_id, "status": "DeadlineExceeded", "outcome": UNKNOWN}
    except grpc.RpcError as error:
        translated = translate(error, writing=True)
        outcome = (
            NOT_WRITTEN if translated.outcome == NOT_WRITTEN or translated.reason in REFUSALS else UNKNOWN
        )
        return {
            "event_id": event_id,
            "status": type(translated).__name__,
            "outcome": outcome,
            "detail": str(translated),
        }
    return {"event_id": event_id, "status": "OK", "sequence": answer.sequence, "epoch": answer.epoch}
