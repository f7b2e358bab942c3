"""Real replica processes of one machine: start, wait for health, break by pid, bring back, end.

A cluster owns a folder of its own:

    <folder>/data/            the data_dir that the replicas share (log, lock, generations)
    <folder>/<replica>.toml   the settings of each
    <folder>/<replica>.log    what each wrote to standard output and error, kept after the run
    <folder>/<replica>.port   where each listens

Only processes that the cluster started are ever signalled, by pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drills.experiment import Inconclusive, Need
from drills.judges.alerts import Watched
from drills.rig.alerts import AlertWatch, mode
from muster.client import Credentials
from muster.v1 import admin_pb2, admin_pb2_grpc

SERVER_COMMAND = (sys.executable, "-m", "server")
RANKING_SERVICE = "muster.v1.RankingService"
CATALOGUE_SERVICE = "muster.v1.CatalogueService"
BUNDLE = Path("models/muster-base")
ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")

_METRICS = re.compile(r"metrics on port (\d+)")

TETHER = Path(__file__).with_name("tether.py")
POLL_S = 0.02
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


class ClusterError(Exception):
    """A replica did not come up, or the cluster is not in the state that was asked for; the text quotes its
    log."""


def find_bundle(given: Path | None = None) -> Path:
    """The bundle to serve: the given one, else the committed one, from here or from the checkout.

    Raises: Inconclusive, saying how to get one.
    """
    candidates = [given] if given is not None else [Path.cwd() / BUNDLE, ROOT / BUNDLE]
    for candidate in candidates:
        if (candidate / "manifest.json").is_file():
            return candidate.resolve()
    looked = " or ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise Inconclusive(
        f"no model bundle at {looked}; train one with 'muster train' or name one with --bundle DIR"
    )


def bundle_need(given: Path | None) -> Need:
    """The need for a bundle as an experiment states it."""

    def missing() -> str | None:
        try:
            find_bundle(given)
        except Inconclusive as error:
            return str(error)
        return None

    return Need("a model bundle", missing)


def write_toml(values: Mapping[str, Any]) -> str:
    """A mapping of scalars and of one level of sections as TOML text."""
    lines = [f"{key} = {_scalar(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for section, entries in values.items():
        if isinstance(entries, Mapping):
            lines += ["", f"[{section}]", *(f"{key} = {_scalar(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # A JSON string is a TOML basic string.
    return json.dumps(str(value))


@dataclass(frozen=True)
class ClusterPlan:
    """What to start.

    settings: sections of the settings file beside replica, listen, bundle and data_dir, the same for each
    replica.
    environment: variables of the replicas, beside those of the drill that are not for a replica.
    alerts: what an evaluator watches beside each run, for which the replicas get metrics endpoints; None:
    nobody watches.
    own_settings, own_environment: the same of single replicas, by name, over those of all.
    start_s: how long a replica may take until its read services are healthy.
    host: what they listen on; other than loopback only inside a namespace that nothing leads out of.
    """

    bundle: Path
    replicas: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = SERVER_COMMAND
    start_s: float = 120.0
    host: str = "127.0.0.1"
    alerts: Watched | None = None
    own_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def settings_of(self, name: str) -> dict[str, Any]:
        """What the settings file of this replica holds beside what every replica's does."""
        merged = dict(self.settings)
        for section, values in self.own_settings.get(name, {}).items():
            before = merged.get(section)
            if isinstance(before, Mapping) and isinstance(values, Mapping):
                merged[section] = {**before, **values}
            else:
                merged[section] = values
        return merged


@dataclass
class Replica:
    """One replica process, running or not.

    log_begins: bytes of its log that a cluster before, in the same folder, has left. metrics: host:port of
    its metrics endpoint; empty: it has none, or was not started yet.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    address: str = ""
    process: subprocess.Popen[bytes] | None = None
    log_begins: int = 0
    metrics: str = ""

    @property
    def config_path(self) -> Path:
        """Its settings file."""
        return self.folder / f"{self.name}.toml"

    @property
    def log_path(self) -> Path:
        """Where its output goes; restarts append."""
        return self.folder / f"{self.name}.log"

    @property
    def port_path(self) -> Path:
        """Where it says that it listens."""
        return self.folder / f"{self.name}.port"

    @property
    def pid(self) -> int:
        """Its process. Raises ClusterError where it was never started."""
        if self.process is None:
            raise ClusterError(f"replica {self.name} was not started")
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists and has not ended."""
        return self.process is not None and self.process.poll() is None

    def log_text(self) -> str:
        """What it has written since this cluster was made; empty where it was never started."""
        try:
            return self.log_path.read_bytes()[self.log_begins :].decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def metrics_address(self) -> str:
        """host:port of its metrics endpoint, as it said when it started last; empty: it has none."""
        ports = _METRICS.findall(self.log_text())
        return f"{self.address.rpartition(':')[0]}:{ports[-1]}" if ports else ""

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, for error texts."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:]) or "(empty log)"


class Cluster:
    """Replicas that share one data folder. A context manager: on the way out every process is ended."""

    alerts: AlertWatch | None = None

    def __init__(self, plan: ClusterPlan, folder: Path) -> None:
        if not 1 <= plan.replicas <= len(NAMES):
            raise ValueError(f"replicas must be 1 to {len(NAMES)}, got {plan.replicas}")
        self.plan = plan
        self.folder = folder
        self.data_dir = folder / "data"
        self.replicas = [Replica(name, folder, tuple(plan.command)) for name in NAMES[: plan.replicas]]
        for replica in self.replicas:
            if replica.log_path.exists():
                replica.log_begins = replica.log_path.stat().st_size
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def addresses(self) -> list[str]:
        """host:port of every replica that has been started, in the order of their names."""
        return [replica.address for replica in self.replicas if replica.address]

    def start(self, count: int | None = None) -> None:
        """Starts the first `count` replicas (all by default) and waits until their read services are healthy
        and one of them is primary. Raises ClusterError, quoting the log of the one that did not come up."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        wanted = [replica for replica in self.replicas[:count] if not replica.running]
        for replica in wanted:
            self._spawn(replica)
        for replica in wanted:
            self.wait_serving(replica)
        self.wait_primary(self.plan.start_s)
        self._watch_alerts()

    @property
    def _watched(self) -> bool:
        # Where none is due nobody looks: each look takes time from the answers that such drills judge.
        return self.plan.alerts is not None and bool(self.plan.alerts.due) and mode() != "off"

    def _watch_alerts(self) -> None:
        if not self._watched or self.alerts is not None:
            return
        for replica in self.replicas:
            replica.metrics = replica.metrics_address() or replica.metrics
        endpoints = [replica.metrics for replica in self.replicas if replica.metrics]
        if not endpoints and tuple(self.plan.command) == SERVER_COMMAND:
            raise ClusterError("no replica tells where its metrics are, so no alert can be watched")
        if endpoints and self.plan.alerts is not None:
            # For a Prometheus that wants to look as well (file_sd_configs).
            found_by = [{"targets": endpoints, "labels": {"job": "muster"}}]
            (self.folder / "prometheus.json").write_text(json.dumps(found_by), encoding="utf-8")
            self.alerts = AlertWatch(self.plan.alerts, endpoints, self.folder)

    def restart(self, replica: Replica) -> None:
        """Brings an ended replica back at the address it had, and waits until its read services are
        healthy."""
        if replica.running:
            return
        self._spawn(replica)
        self.wait_serving(replica)

    def _spawn(self, replica: Replica) -> None:
        # A replica that comes back keeps its address: clients have a fixed list of endpoints.
        listen = replica.address or f"{self.plan.host}:0"
        values: dict[str, Any] = {
            "replica": replica.name,
            "listen": listen,
            "bundle": str(self.plan.bundle.resolve()),
            "data_dir": str(self.data_dir.resolve()),
            **self.plan.settings_of(replica.name),
        }
        if not self.plan.host.startswith("127."):
            # Nothing leads out of the namespace, and the drill says so.
            values["tls"] = {"allow_plaintext": True, **values.get("tls", {})}
            values["auth"] = {"mode": "off", **values.get("auth", {})}
        if self._watched:
            # One that comes back is watched at the address it had.
            metrics = {"listen": f"{self.plan.host}:0", **values.get("metrics", {})}
            values["metrics"] = {**metrics, "listen": replica.metrics or metrics["listen"]}
        replica.config_path.write_text(write_toml(values), encoding="utf-8")
        replica.port_path.unlink(missing_ok=True)
        # The settings file alone decides: whatever the caller's environment sets for a replica of theirs
        # stays out.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MUSTER_")}
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (str(ROOT), environment.get("PYTHONPATH", "")) if part
        )
        environment.update(self.plan.environment)
        environment.update(self.plan.own_environment.get(replica.name, {}))
        with replica.log_path.open("ab") as log:
            replica.process = subprocess.Popen(
                [
                    sys.executable,
                    "-IS",
                    str(TETHER),
                    str(os.getpid()),
                    *replica.command,
                    "--config",
                    str(replica.config_path),
                    "--port-file",
                    str(replica.port_path.resolve()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # A terminal's Ctrl-C reaches the drill alone, which then ends its replicas in order.
                start_new_session=True,
            )

    def wait_serving(self, replica: Replica, timeout_s: float | None = None) -> None:
        """Waits until the replica's read service reports SERVING. Raises ClusterError."""
        end_s = time.monotonic() + (self.plan.start_s if timeout_s is None else timeout_s)
        while time.monotonic() < end_s:
            if not replica.running:
                code = replica.process.returncode if replica.process is not None else None
                raise ClusterError(f"replica {replica.name} ended with code {code}:\n{replica.log_tail()}")
            listening = self._read_port(replica)
            if listening and self.health(replica, RANKING_SERVICE):
                return
            time.sleep(POLL_S)
        raise ClusterError(f"replica {replica.name} was not healthy in time:\n{replica.log_tail()}")

    def _read_port(self, replica: Replica) -> bool:
        """Takes the address from the port file; False while the replica has not written it."""
        try:
            text = replica.port_path.read_text(encoding="utf-8")
        except OSError:
            return False
        if not text.endswith("\n"):
            return False
        replica.address = text.strip()
        return True

    def health(self, replica: Replica, service: str, timeout_s: float = 0.5) -> bool:
        """Whether one replica reports one service as SERVING; False where it does not answer."""
        if not replica.running:
            return False
        stub = health_pb2_grpc.HealthStub(self._channel(replica))
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def status(self, replica: Replica, timeout_s: float = 2.0) -> admin_pb2.StatusResponse:
        """What the replica says of itself. Raises grpc.RpcError where it does not answer."""
        stub = admin_pb2_grpc.AdminServiceStub(self._channel(replica))
        answer: admin_pb2.StatusResponse = stub.Status(admin_pb2.StatusRequest(), timeout=timeout_s)
        return answer

    def channel(self, replica: Replica) -> grpc.Channel:
        """A plain channel to one replica, shared and closed with the cluster."""
        return self._channel(replica)

    def _channel(self, replica: Replica) -> grpc.Channel:
        if replica.address not in self._channels:
            self._channels[replica.address] = Credentials.from_environment().channel(
                replica.address,
                [
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.min_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 200),
                ],
            )
        return self._channels[replica.address]

    def primaries(self) -> list[Replica]:
        """The replicas whose write service reports SERVING."""
        return [
            replica
            for replica in self.replicas
            if replica.address and self.health(replica, CATALOGUE_SERVICE)
        ]

    def primary(self) -> Replica:
        """The one primary. Raises ClusterError where there is none or more than one."""
        found = self.primaries()
        if len(found) != 1:
            raise ClusterError(f"one primary expected, found {[replica.name for replica in found] or 'none'}")
        return found[0]

    def wait_primary(self, timeout_s: float) -> Replica:
        """Waits until exactly one replica is primary, and returns it. Raises ClusterError."""

        def sole() -> Replica | None:
            found = self.primaries()
            return found[0] if len(found) == 1 else None

        return self.wait("one primary", timeout_s, sole)

    def wait_caught_up(self, sequence: int, timeout_s: float, *, built: bool = False) -> None:
        """Waits until every running replica has applied `sequence`; with `built`, also until no generation is
        being built and all serve the same one with no product left outside it. Raises ClusterError."""

        def caught_up() -> bool:
            states = []
            for replica in self.replicas:
                if replica.running:
                    try:
                        states.append(self.status(replica))
                    except grpc.RpcError:
                        return False
            if not states or any(state.applied_sequence < sequence or not state.serving for state in states):
                return False
            if not built:
                return True
            return len({state.generation_id for state in states}) == 1 and all(
                not state.building and not state.delta_products for state in states
            )

        self.wait(
            f"every replica at sequence {sequence}{' in one generation' if built else ''}",
            timeout_s,
            caught_up,
        )

    def wait(self, what: str, timeout_s: float, condition: Callable[[], T | None]) -> T:
        """Polls until `condition` returns something true, and returns it. Raises ClusterError on time-out."""
        end_s = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() >= end_s:
                tails = "\n".join(f"--- {replica.name}\n{replica.log_tail(5)}" for replica in self.replicas)
                raise ClusterError(f"not within {timeout_s:.0f} s: {what}\n{tails}")
            time.sleep(POLL_S)

    def signal(self, replica: Replica, number: signal.Signals) -> None:
        """Signals one replica that this cluster started and that has not ended."""
        if replica.running:
            os.kill(replica.pid, number)

    def stop(self, replica: Replica) -> int:
        """SIGSTOP; returns the pid once the process stands still. Raises ClusterError where it does not."""
        pid = replica.pid
        self.signal(replica, signal.SIGSTOP)
        self.wait(f"replica {replica.name} stands still", 10.0, lambda: stands_still(pid))
        return pid

    def wake(self, replica: Replica) -> None:
        """SIGCONT, whether or not it was stopped."""
        self.signal(replica, signal.SIGCONT)

    def kill(self, replica: Replica) -> int:
        """kill -9; returns the pid once the process is gone."""
        pid = replica.pid
        self.signal(replica, signal.SIGKILL)
        assert replica.process is not None
        replica.process.wait(timeout=60)
        return pid

    def close(self, grace_s: float = 5.0) -> None:
        """Ends every process: SIGTERM, then SIGKILL after `grace_s`. Safe to call twice."""
        if self.alerts is not None:
            self.alerts.close()
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        alive = [replica for replica in self.replicas if replica.running]
        for replica in alive:
            # A stopped process would never see the SIGTERM.
            self.wake(replica)
            self.signal(replica, signal.SIGTERM)
        end_s = time.monotonic() + grace_s
        for replica in alive:
            assert replica.process is not None
            try:
                replica.process.wait(timeout=max(0.05, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(replica)

    def remove_data(self) -> None:
        """Deletes the shared data folder (logs and settings stay). Only after `close`."""
        shutil.rmtree(self.data_dir, ignore_errors=True)


def stands_still(pid: int) -> bool:
    """Whether every thread of the process is stopped (state T of proc(5))."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0])
    return bool(states) and set(states) == {"T"}


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end a drill the way Ctrl-C does, so that replicas are ended and faults undone."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
