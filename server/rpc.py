"""The gRPC server of a replica: transport settings, the table of methods, and the time before it is
filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from muster.v1 import admin_pb2, catalogue_pb2, ranking_pb2
from server import errors
from server.config import ConfigurationError, RpcSettings
from server.health import Health

_FILES = (ranking_pb2, catalogue_pb2, admin_pb2, health_pb2)


class MethodTable(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Finds the handler of a call. Methods that are declared but not there yet are answered UNAVAILABLE."""

    def __init__(self) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._starting = grpc.unary_unary_rpc_method_handler(_not_ready)
        self._declared = frozenset(
            f"/{service.full_name}/{method.name}"
            for file in (ranking_pb2, catalogue_pb2, admin_pb2)
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
    """Bound when made, so that a port in use is found before anything is loaded; answers after ``start``.

    Raises: ConfigurationError where the address cannot be taken.
    """

    def __init__(self, listen: str, settings: RpcSettings) -> None:
        self.methods = MethodTable()
        self._reflection = settings.reflection
        self._server = grpc.server(
            ThreadPoolExecutor(settings.threads + settings.watch_streams_max, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=settings.requests_in_flight_max,
            options=[
                # Two replicas on one port would share its calls at random; the second must fail instead.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.request_bytes_max),
                ("grpc.max_send_message_length", settings.response_bytes_max),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", settings.client_ping_interval_min_ms),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self.host = listen.rpartition(":")[0]
        try:
            self.port = int(self._server.add_insecure_port(listen))
        except RuntimeError as error:
            raise _address_taken(listen) from error
        if self.port == 0:
            raise _address_taken(listen)

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

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish, cancel those that outlive the grace."""
        self._server.stop(grace_s).wait()


def _address_taken(listen: str) -> ConfigurationError:
    return ConfigurationError(
        [f"listen = {listen!r}: the address cannot be taken; is another process using the port?"]
    )


def _not_ready(request: Any, context: grpc.ServicerContext) -> bytes:
    context.abort_with_status(errors.status_of(errors.ReplicaNotReady("this replica is still starting")))
    raise AssertionError("abort returned")
