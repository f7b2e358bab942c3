"""Real server processes for tests: started on a free port of the loopback, always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muster.v1 import admin_pb2, admin_pb2_grpc, catalogue_pb2, catalogue_pb2_grpc, ranking_pb2_grpc

ROOT = Path(__file__).parents[2]
START_S = 90.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def command(
    bundle: Path, data_dir: Path, settings: Mapping[str, object] | None = None, module: str = "server"
) -> list[str]:
    """Command line of a replica; settings by their dotted names. module: what Python runs."""
    line = [sys.executable, "-m", module, "--bundle", str(bundle), "--data-dir", str(data_dir)]
    for name, value in (settings or {}).items():
        line += ["--set", f"{name}={value}"]
    return line


def run_refused(line: list[str]) -> tuple[int, str]:
    """Run a replica that should not start; its exit code and what it wrote to standard error."""
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False)
    return done.returncode, done.stderr


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    """Poll until true. Raises: TimeoutError saying what did not happen."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(what)
        time.sleep(0.02)


class Replica:
    """One process. Use as a context manager; leaving it kills what still runs. port 0: a free one."""

    def __init__(
        self,
        bundle: Path,
        data_dir: Path,
        name: str,
        settings: Mapping[str, object] | None = None,
        *,
        module: str = "server",
        port: int = 0,
    ) -> None:
        self.name = name
        self.port_file = data_dir.parent / f"{data_dir.name}-{name}.port"
        self.log_file = data_dir.parent / f"{data_dir.name}-{name}.log"
        line = command(bundle, data_dir, settings, module)
        line += ["--replica", name, "--listen", f"127.0.0.1:{port}", "--port-file", str(self.port_file)]
        self.port_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(line, cwd=ROOT, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: self.port_file.exists() or self.process.poll() is not None, "listening")
            if self.process.poll() is not None:
                raise RuntimeError(f"{name} ended with {self.process.returncode}: {self.log()}")
            self.address = self.port_file.read_text(encoding="utf-8").strip()
            self.channel = grpc.insecure_channel(self.address)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.health_stub = health_pb2_grpc.HealthStub(self.channel)
        self.ranking = ranking_pb2_grpc.RankingServiceStub(self.channel)
        self.catalogue = catalogue_pb2_grpc.CatalogueServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *exception: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """What the process has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def health(self, service: str) -> int:
        """Status of a service by the standard health check."""
        request = health_pb2.HealthCheckRequest(service=service)
        return int(self.health_stub.Check(request, timeout=5, wait_for_ready=True).status)

    def wait_serving(self, service: str = "muster.v1.RankingService") -> Replica:
        """Wait until a service is SERVING."""

        def serving() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.log()}")
            return self.health(service) == SERVING

        wait_until(serving, f"{self.name} serves {service}")
        return self

    def wait_primary(self) -> Replica:
        """Wait until writes are served here."""
        return self.wait_serving("muster.v1.CatalogueService")

    def status(self) -> admin_pb2.StatusResponse:
        """AdminService.Status."""
        return self.admin.Status(admin_pb2.StatusRequest(), timeout=5)

    def apply(self, *events: catalogue_pb2.Event) -> catalogue_pb2.ApplyResponse:
        """Append events."""
        return self.catalogue.Apply(catalogue_pb2.ApplyRequest(events=events), timeout=10)

    def drain(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


def upsert(product_id: str, title: str, **columns: object) -> catalogue_pb2.Event:
    """An upsert event whose id is made from the product."""
    product = catalogue_pb2.Product(product_id=product_id, title=title, **columns)  # type: ignore[arg-type]
    return catalogue_pb2.Event(event_id=f"upsert-{product_id}-{time.monotonic_ns()}", upsert=product)


def patch(product_id: str, **columns: object) -> catalogue_pb2.Event:
    """A patch event."""
    change = catalogue_pb2.Patch(product_id=product_id, **columns)  # type: ignore[arg-type]
    return catalogue_pb2.Event(event_id=f"patch-{product_id}-{time.monotonic_ns()}", patch=change)


def delete(product_id: str) -> catalogue_pb2.Event:
    """A delete event."""
    change = catalogue_pb2.Delete(product_id=product_id)
    return catalogue_pb2.Event(event_id=f"delete-{product_id}-{time.monotonic_ns()}", delete=change)


def shoes(count: int, colour: str = "red") -> list[catalogue_pb2.Event]:
    """Upserts of ``count`` products that differ in number and price."""
    return [
        upsert(
            f"{colour}-{number}",
            f"{colour} running shoe {number}",
            brand="Acme",
            category=["Sport", "Shoes"],
            price=10.0 + number,
            stock=number,
        )
        for number in range(count)
    ]
