"""Replicas of this machine that come and go: start, warm, join, drain, stop.

Each has a fixed address, a slot, so that clients with a fixed list of endpoints find it when it is there. A
replica joins when its health says SERVING, which it does after its warm-up; it leaves on SIGTERM, upon which
it says NOT_SERVING, lets clients go elsewhere, ends what it has begun, and gives its lease away if it holds
it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muster.client import Credentials
from muster.v1 import admin_pb2, admin_pb2_grpc

SERVER_COMMAND = (sys.executable, "-m", "server")
_RANKING = "muster.v1.RankingService"
_ASK_S = 0.5
_OPTIONS: Sequence[tuple[str, int | str]] = (("grpc.use_local_subchannel_pool", 1),)


class Phase(StrEnum):
    """Where a slot stands."""

    EMPTY = "empty"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass
class Slot:
    """A place for a replica. since_s: of the phase, on the monotonic clock."""

    endpoint: str
    name: str
    phase: Phase = Phase.EMPTY
    since_s: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LocalSettings:
    """config: settings file of the replicas, in which name and address are replaced. logs: folder of what
    they write. start_s: until a replica must serve. drain_s: until it must have ended after SIGTERM."""

    config: Path
    logs: Path
    command: Sequence[str] = SERVER_COMMAND
    start_s: float = 120.0
    drain_s: float = 30.0


class LocalReplicas:
    """The slots. One thread uses it; `look` moves the phases on. A context manager: on the way out all that
    it started are drained.

    tell: hears, in a sentence, of each change of a slot; a problem begins with "problem:".
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        settings: LocalSettings,
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = [Slot(endpoint, f"scaled-{place}") for place, endpoint in enumerate(endpoints, start=1)]
        self.problems = 0
        self._settings = settings
        self._tell = tell
        self._clock = clock

    def __enter__(self) -> LocalReplicas:
        return self

    def __exit__(self, *_: object) -> None:
        self.drain_all()

    @property
    def count(self) -> int:
        """Replicas that serve or are about to."""
        return sum(slot.phase in (Phase.STARTING, Phase.SERVING) for slot in self.slots)

    @property
    def moving(self) -> bool:
        """A replica is on its way in or out."""
        return any(slot.phase in (Phase.STARTING, Phase.DRAINING) for slot in self.slots)

    @property
    def serving(self) -> list[str]:
        """Endpoints that have joined."""
        return [slot.endpoint for slot in self.slots if slot.phase is Phase.SERVING]

    def add(self) -> None:
        """Starts a replica in the first free slot; nothing where none is free."""
        slot = next((one for one in self.slots if one.phase is Phase.EMPTY), None)
        if slot is None:
            return
        settings = self._settings
        settings.logs.mkdir(parents=True, exist_ok=True)
        command = [*settings.command, "--config", str(settings.config)]
        command += ["--replica", slot.name, "--listen", slot.endpoint]
        with (settings.logs / f"{slot.name}.log").open("ab") as log:
            slot.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._move(slot, Phase.STARTING, f"started, process {slot.process.pid}")

    def remove(self) -> bool:
        """Begins to drain the serving replica that came last and is not primary; False: there is none."""
        for slot in reversed(self.slots):
            if slot.phase is Phase.SERVING and not self._is_primary(slot):
                self._drain(slot)
                return True
        return False

    def look(self) -> None:
        """Moves each slot on: what serves has joined, what has ended is gone."""
        for slot in self.slots:
            if slot.process is None:
                continue
            code = slot.process.poll()
            waited_s = self._clock() - slot.since_s
            if code is not None:
                slot.process = None
                if slot.phase is Phase.DRAINING and code == 0:
                    self._move(slot, Phase.EMPTY, f"ended after {waited_s:.1f} s of draining")
                else:
                    self._problem(slot, f"ended with {code} while {slot.phase}")
            elif slot.phase is Phase.STARTING:
                if self._healthy(slot.endpoint):
                    self._move(slot, Phase.SERVING, f"joined, warm after {waited_s:.1f} s")
                elif waited_s > self._settings.start_s:
                    self._kill(slot)
                    self._problem(slot, f"did not serve within {self._settings.start_s:g} s")
            elif slot.phase is Phase.DRAINING and waited_s > self._settings.drain_s:
                self._kill(slot)
                self._problem(slot, f"did not end within {self._settings.drain_s:g} s of draining")

    def drain_all(self) -> None:
        """Drains all at once and waits for them."""
        for slot in self.slots:
            if slot.process is not None and slot.phase is not Phase.DRAINING:
                self._drain(slot)
        while self.moving:
            self.look()
            time.sleep(0.05)

    def _drain(self, slot: Slot) -> None:
        assert slot.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot.process.pid, signal.SIGTERM)
        self._move(slot, Phase.DRAINING, "draining")

    def _kill(self, slot: Slot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.wait()
            slot.process = None

    def _move(self, slot: Slot, phase: Phase, what: str) -> None:
        slot.phase, slot.since_s = phase, self._clock()
        self._tell(f"{slot.name} at {slot.endpoint}: {what}")

    def _problem(self, slot: Slot, what: str) -> None:
        self.problems += 1
        log = self._settings.logs / f"{slot.name}.log"
        slot.phase, slot.since_s = Phase.EMPTY, self._clock()
        self._tell(f"problem: {slot.name} at {slot.endpoint} {what}; see {log}")

    def _healthy(self, endpoint: str) -> bool:
        with Credentials.from_environment().channel(endpoint, _OPTIONS) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=_RANKING), timeout=_ASK_S
                )
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _is_primary(self, slot: Slot) -> bool:
        """A replica that does not answer is taken for one: it must not be ended on a guess."""
        with Credentials.from_environment().channel(slot.endpoint, _OPTIONS) as channel:
            try:
                status = admin_pb2_grpc.AdminServiceStub(channel).Status(
                    admin_pb2.StatusRequest(), timeout=_ASK_S
                )
            except grpc.RpcError:
                return True
            return bool(status.role == admin_pb2.ROLE_PRIMARY)
