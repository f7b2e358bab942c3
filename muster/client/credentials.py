"""How a client shows who it is, and whom it believes: TLS, client certificates, tokens.

The one place where channels are made. Without any of it channels are plain, as before.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from muster.client.errors import InvalidRequest

TOKEN_KEY = "authorization"
_TOKEN_BYTES_MAX = 16 * 1024
_LOOK_EVERY_S = 1.0

ENVIRONMENT = {
    "tls_ca": "MUSTER_TLS_CA",
    "tls_cert": "MUSTER_TLS_CERT",
    "tls_key": "MUSTER_TLS_KEY",
    "tls_server_name": "MUSTER_TLS_SERVER_NAME",
    "token": "MUSTER_TOKEN",
    "token_file": "MUSTER_TOKEN_FILE",
}
"""The variable of each field of `Credentials`, for `Credentials.from_environment`."""


@dataclass(frozen=True)
class Credentials:
    """What a client shows and checks.

    tls_ca: authorities, PEM, of which one must have signed the replicas' certificates; with it every
        connection is encrypted. tls_cert, tls_key: the client's own certificate and key, PEM.
    tls_server_name: the name that every replica's certificate must hold; empty: the host of its endpoint. A
        client of several replicas by name needs it for writes: their one channel checks one name.
    token: sent with each call. token_file: holds it instead, and is read again when it changes, so that a
        short-lived token can be renewed while the client runs.
    Raises: InvalidRequest where they contradict each other.
    """

    tls_ca: Path | str | None = None
    tls_cert: Path | str | None = None
    tls_key: Path | str | None = None
    tls_server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidRequest(
                "the client's certificate and its key belong together: give both, or neither"
            )
        if self.tls_ca is None and (self.tls_cert is not None or self.tls_server_name):
            raise InvalidRequest("a client's certificate or a server name needs tls_ca: whom to believe")
        if self.token and self.token_file is not None:
            raise InvalidRequest("give a token or the file that holds it, not both")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """What the variables of `ENVIRONMENT` say; empty ones say nothing. Raises: InvalidRequest."""
        told = {name: environment.get(variable, "") for name, variable in ENVIRONMENT.items()}
        return cls(**{name: value for name, value in told.items() if value})

    def check(self, endpoints: Sequence[str]) -> None:
        """Refuse to send a token where others could read it. Raises: InvalidRequest."""
        if self.tls_ca is not None or not (self.token or self.token_file is not None):
            return
        for endpoint in endpoints:
            if not _is_loopback(endpoint.rpartition(":")[0]):
                raise InvalidRequest(
                    f"the token would go to {endpoint} unencrypted; name the authority of its certificate"
                    " (tls_ca, --tls-ca, MUSTER_TLS_CA)"
                )

    def channel(self, target: str, options: Sequence[tuple[str, int | str]]) -> grpc.Channel:
        """A channel to a gRPC target. Raises: InvalidRequest where a file cannot be read."""
        channel_options = [*options, *self._options()]
        secrets = self._secrets()
        if secrets is None:
            channel = grpc.insecure_channel(target, options=channel_options)
        else:
            channel = grpc.secure_channel(target, secrets, options=channel_options)
        source = self._token_source()
        return channel if source is None else grpc.intercept_channel(channel, _Sends(source))

    def aio_channel(self, target: str, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """The same for asyncio."""
        channel_options = [*options, *self._options()]
        source = self._token_source()
        interceptors = None if source is None else [_SendsUnary(source), _SendsStream(source)]
        secrets = self._secrets()
        if secrets is None:
            return grpc.aio.insecure_channel(target, options=channel_options, interceptors=interceptors)
        return grpc.aio.secure_channel(target, secrets, options=channel_options, interceptors=interceptors)

    def _options(self) -> list[tuple[str, int | str]]:
        return [("grpc.ssl_target_name_override", self.tls_server_name)] if self.tls_server_name else []

    def _secrets(self) -> grpc.ChannelCredentials | None:
        if self.tls_ca is None:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.tls_ca),
            private_key=None if self.tls_key is None else _read(self.tls_key),
            certificate_chain=None if self.tls_cert is None else _read(self.tls_cert),
        )

    def _token_source(self) -> Callable[[], str] | None:
        if self.token_file is not None:
            return _TokenFile(Path(self.token_file)).token
        token = self.token.strip()
        return (lambda: token) if token else None


class _TokenFile:
    """A token in a file, which may change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._token = _text(path)
        self._read_at_s = time.monotonic()

    def token(self) -> str:
        """The token now; the one before while the file cannot be read."""
        with self._lock:
            if time.monotonic() - self._read_at_s > _LOOK_EVERY_S:
                self._read_at_s = time.monotonic()
                with contextlib.suppress(InvalidRequest):
                    self._token = _text(self._path)
            return self._token


class _Details(NamedTuple):
    """grpc asks for an object with these fields and offers no way to make one."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Sends(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Adds the token to each call of a channel."""

    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Called by grpc."""
        return continuation(self._with_token(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Called by grpc."""
        return continuation(self._with_token(details), request)

    def _with_token(self, details: Any) -> _Details:
        return _Details(
            details.method,
            details.timeout,
            [*(details.metadata or ()), (TOKEN_KEY, f"Bearer {self._source()}")],
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )


def _aio_details(details: Any, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add(TOKEN_KEY, f"Bearer {token}")
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _SendsUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Called by grpc."""
        return await continuation(_aio_details(details, self._source()), request)


class _SendsStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Called by grpc."""
        return await continuation(_aio_details(details, self._source()), request)


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from error


def _text(path: Path) -> str:
    data = _read(path)
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: holds no token") from error
    if not token or len(token) > _TOKEN_BYTES_MAX or any(character.isspace() for character in token):
        raise InvalidRequest(f"{path}: holds no token")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
