"""The gRPC server of a replica: the front and what is behind it, transport settings, the table of methods,
and the time before it is filled.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import rankcore
from muster.v1 import admin_pb2, catalogue_pb2, feedback_pb2, ranking_pb2
from server import errors
from server.config import ConfigurationError, Settings, split_address
from server.health import Health
from server.protection import auth_for_front, tls_for_front

logger = logging.getLogger(__name__)

_NEWS_WAIT_S = 1.0

Denied = Callable[[str, str, str, str], None]
"""Told of an operator's call that was refused: path, address, subject (empty: not known), reason."""

_SERVICES = (ranking_pb2, catalogue_pb2, feedback_pb2, admin_pb2)
_FILES = (*_SERVICES, health_pb2)


class MethodTable(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Finds the handler of a call. Methods that are declared but not there yet are answered UNAVAILABLE."""

    def __init__(self) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._starting = grpc.unary_unary_rpc_method_handler(_not_ready)
        self._declared = frozenset(
            f"/{service.full_name}/{method.name}"
            for file in _SERVICES
            for service in file.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        )

    def add(self, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """From here on these are answered. Raises: AssertionError for a method that no service declares."""
        assert set(methods) <= self._declared, set(methods) - self._declared
        self._methods = {**self._methods, **methods}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Called by gRPC for each call."""
        handler = self._methods.get(handler_call_details.method)
        if handler is None and handler_call_details.method in self._declared:
            return self._starting
        return handler


class RpcServer:
    """What clients see as one gRPC server: the front, which owns the address and answers ranking calls, and
    behind it, on a private socket, the server of all other services.

    Bound when made, so that a port in use is found before anything is loaded; answers after ``start``.
    Raises: ConfigurationError where the address cannot be taken.
    """

    def __init__(self, replica: Settings, *, denied: Denied = lambda *told: None) -> None:
        listen, settings, ranking = replica.listen, replica.rpc, replica.ranking
        self._denied = denied
        self.methods = MethodTable()
        self._reflection = settings.reflection
        self._server = grpc.server(
            ThreadPoolExecutor(settings.threads + settings.watch_streams_max, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=settings.requests_in_flight_max,
            options=[
                ("grpc.max_receive_message_length", settings.request_bytes_max),
                ("grpc.max_send_message_length", settings.response_bytes_max),
            ],
        )
        self._socket = _listen_privately(self._server)
        self.host = listen.rpartition(":")[0]
        try:
            self.front = rankcore.Front(
                listen,
                # The only name that is left of a socket without one; it resolves in this process alone.
                upstream=f"/proc/self/fd/{self._socket}",
                threads=settings.message_threads,
                request_bytes_max=settings.request_bytes_max,
                response_bytes_max=settings.response_bytes_max,
                requests_in_flight_max=settings.requests_in_flight_max,
                connections_max=settings.connections_max,
                default_us=ranking.default_deadline_ms * 1000,
                max_us=ranking.deadline_max_ms * 1000,
                tls=tls_for_front(replica.tls),
                identity=auth_for_front(replica.auth, replica.replica_name(split_address(listen)[1])),
                quota=replica.quota.for_front(),
            )
        except ValueError as error:
            self._give_up()
            raise ConfigurationError([f"tls, auth: {error}"]) from error
        except OSError as error:
            self._give_up()
            raise ConfigurationError(
                [
                    f"listen = {listen!r}: the address cannot be taken ({error.strerror or error});"
                    " is another process using the port?"
                ]
            ) from error
        self.port = self.front.port
        self._stopped = threading.Event()

    def _give_up(self) -> None:
        self._server.stop(0).wait()
        os.close(self._socket)

    @property
    def address(self) -> str:
        """``host:port`` as bound."""
        return f"{self.host}:{self.port}"

    def start(self, health: Health) -> None:
        """Begin to answer."""
        self._server.add_generic_rpc_handlers((self.methods,))
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        if self._reflection:
            names = [
                service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
            ]
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        self._server.start()
        self.front.start()
        threading.Thread(target=self._read_news, name="front-log", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish, cancel those that outlive the grace."""
        if self._stopped.is_set():
            return
        # The front goes first: what it lets through would find nobody. Its calls end with those behind it.
        front = threading.Thread(target=self.front.stop, args=(grace_s,), name="front-stop")
        front.start()
        self._server.stop(grace_s).wait()
        front.join()
        self._stopped.set()
        os.close(self._socket)

    def _read_news(self) -> None:
        """What the front has to tell, until it has stopped."""
        while not self._stopped.is_set():
            news = self.front.news(_NEWS_WAIT_S)
            if news is not None:
                kind, parts = news
                _TELL[kind](self._denied, *parts)


def _failed(denied: Denied, reference: str, cause: str, request_id: str) -> None:
    """A ranking call failed by a fault of ours; its caller got the reference."""
    logger.error(
        "request failed, reference %s: %s", reference, cause, extra={"request_id": request_id or None}
    )


def _taken(denied: Denied, what: str) -> None:
    logger.info("%s: the files have changed and are in force", what)


def _kept(denied: Denied, what: str, why: str) -> None:
    logger.error("%s: the files have changed and cannot be used, those before stay in force: %s", what, why)


def _denied(denied: Denied, path: str, address: str, subject: str, reason: str) -> None:
    logger.warning("refused %r to %s at %s: %s", path, subject or "somebody unknown", address, reason)
    denied(path, address, subject, reason)


_TELL: Mapping[str, Callable[..., None]] = {
    "failed": _failed,
    "taken": _taken,
    "kept": _kept,
    "denied": _denied,
}


def _listen_privately(server: grpc.Server) -> int:
    """Let the server listen on a unix socket that nobody but this process can find; returns a descriptor that
    names it.

    The socket is made in a folder that is only ours and loses its name at once, so a process that is killed
    leaves nothing behind. A descriptor opened before keeps the way to it.
    """
    folder = Path(tempfile.mkdtemp(prefix="muster-"))
    path = folder / "rpc"
    try:
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o600)
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    finally:
        path.unlink(missing_ok=True)
        folder.rmdir()


def _not_ready(request: Any, context: grpc.ServicerContext) -> bytes:
    context.abort_with_status(errors.status_of(errors.ReplicaNotReady("this replica is still starting")))
    raise AssertionError("abort returned")
