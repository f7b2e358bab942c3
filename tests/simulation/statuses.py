"""What a client's gRPC call raises, made by the server's own table of errors."""

from __future__ import annotations

from functools import lru_cache

import grpc

from server.errors import status_of


class Failed(grpc.RpcError):  # type: ignore[misc]  # grpc ships no types
    """A call that ended with a status. trailers: the service's own details, or none."""

    def __init__(self, code: grpc.StatusCode, trailers: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        super().__init__()
        self._code = code
        self._trailers = trailers

    def code(self) -> grpc.StatusCode:
        """As `grpc.Call.code`."""
        return self._code

    def details(self) -> str:
        """As `grpc.Call.details`."""
        return self._code.name

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """As `grpc.Call.trailing_metadata`."""
        return self._trailers


BROKEN = Failed(grpc.StatusCode.UNAVAILABLE)
"""The connection broke: nobody says what became of the call."""

LATE = Failed(grpc.StatusCode.DEADLINE_EXCEEDED)
"""gRPC's own end of a call."""


def failure_of(error: Exception) -> Failed:
    """The status that the service answers this error with."""
    return _failure(type(error), bool(getattr(error, "outcome_unknown", False)), _Example(error))


class _Example:
    """Stands for any error of its kind: the text makes no difference to the client."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Example)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _failure(kind: type[Exception], outcome_unknown: bool, example: _Example) -> Failed:
    status = status_of(example.error)
    return Failed(status.code, status.trailing_metadata)
