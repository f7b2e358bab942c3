"""Roles told through standard health checking (``grpc.health.v1``).

The ranking service is SERVING on every replica that has caught up, the services that write on the primary
alone; a standard client that checks health finds the primary without asking us. The Watch of the health
service does not hold a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health, health_pb2

OVERALL = ""
RANKING = "muster.v1.RankingService"
CATALOGUE = "muster.v1.CatalogueService"
FEEDBACK = "muster.v1.FeedbackService"
ADMIN = "muster.v1.AdminService"


class _Servicer(health.HealthServicer):  # type: ignore[misc]  # grpc ships no types
    """The standard servicer, without a way to block the server's only polling thread.

    A Watch sends its first status under the servicer's lock, and waits there for the thread that polls the
    server to say that it was sent. That thread takes the same lock when another Watch ends: from then on
    nobody polls, and no call is answered again. So another thread does what an ended Watch leaves to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._forget_ended, name="health-watches", daemon=True).start()

    def _on_close_callback(self, send_response_callback: Any, service: str) -> Callable[[], None]:
        forget: Callable[[], None] = super()._on_close_callback(send_response_callback, service)
        return lambda: self._ended.put(forget)

    def _forget_ended(self) -> None:
        while True:
            self._ended.get()()


class Health:
    """What this replica says of itself. Thread-safe; only changes are told."""

    def __init__(self) -> None:
        self.servicer = _Servicer()
        self._lock = threading.Lock()
        self._leaving = False
        self._told: dict[str, bool] = {}
        for service in (OVERALL, RANKING, CATALOGUE, FEEDBACK):
            self._tell(service, False)
        self._tell(ADMIN, True)

    def readable(self, serving: bool) -> None:
        """Whether reads are served: this replica is warm and not known to be behind."""
        with self._lock:
            if not self._leaving:
                self._tell(RANKING, serving)
                self._tell(OVERALL, serving)

    def writable(self, serving: bool) -> None:
        """Whether writes are served: this replica is the primary."""
        with self._lock:
            if not self._leaving:
                self._tell(CATALOGUE, serving)
                self._tell(FEEDBACK, serving)

    def leave(self) -> None:
        """Everything is NOT_SERVING from here on; the first step of a drain."""
        with self._lock:
            self._leaving = True
            for service in (CATALOGUE, FEEDBACK, RANKING, OVERALL, ADMIN):
                self._tell(service, False)

    def serving(self, service: str) -> bool:
        """What was last told of ``service``."""
        with self._lock:
            return self._told[service]

    def _tell(self, service: str, serving: bool) -> None:
        if self._told.get(service) is serving:
            return
        self._told[service] = serving
        status = health_pb2.HealthCheckResponse.ServingStatus
        self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)
