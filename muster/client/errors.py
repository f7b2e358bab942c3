"""Errors of the client, and the one place where gRPC's become ours.

MusterError
├── InvalidRequest      correct the request; `violations` names the fields
├── NotFound            the product is not in the catalogue
├── Conflict            the state forbids it; look at the message
├── NotAllowed          show who you are, or ask for the right; `reason` says which
├── Overloaded          wait `retry_after_ms`, then send again
├── DeadlineExceeded    give more time
├── Unavailable         no replica answered; try again, check that the service runs
├── Cancelled           the call was cancelled
├── ClientClosed        the client was closed before
└── ServiceFailed       the service is at fault; report it

Of a write, each says in `outcome` whether it may have happened.
"""

# The names are the ones that callers read in `except`; "Error" on each would only repeat the base class.

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


class MusterError(Exception):
    """Anything that a call can end with except an answer.

    reason: the service's own short name of the case, such as NOT_PRIMARY; empty where it gave none.
    endpoint: the replica that said so; empty where it is not known or was none.
    outcome: of a write: "not_written", or "unknown" (send the same events with the same ids again to learn);
        empty of a read, and of a write that was never sent.
    """

    reason: str = ""
    endpoint: str = ""
    outcome: str = ""


class InvalidRequest(MusterError):
    """The request is refused as it stands. violations: pairs of field path and description."""

    def __init__(self, message: str, violations: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.violations = list(violations)


class NotFound(MusterError):
    """What the request names does not exist."""


class Conflict(MusterError):
    """The present state forbids the request."""


class NotAllowed(MusterError):
    """The caller is not known to the service (`reason` UNAUTHENTICATED, TOKEN_EXPIRED), or may not do this
    (SCOPE_MISSING)."""


class Overloaded(MusterError):
    """Load was shed. retry_after_ms: how long to wait before asking again; 0: the service did not say."""

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineExceeded(MusterError):
    """The deadline passed, or was too small for any plan."""

    def __init__(self, message: str, outcome: str = "") -> None:
        super().__init__(message)
        self.outcome = outcome


class Unavailable(MusterError):
    """No replica could answer, or none may write at the moment."""


class Cancelled(MusterError):
    """The call was cancelled."""


class ClientClosed(MusterError):
    """A call on a client that was closed."""


class ServiceFailed(MusterError):
    """The service failed on this request, or speaks another version of the contract."""


_Code = grpc.StatusCode
RETRYABLE = frozenset({_Code.UNAVAILABLE})
"""Codes after which a read goes to another replica."""

RESENDABLE = frozenset({_Code.UNAVAILABLE, _Code.ABORTED})
"""Codes after which the same events are sent again: the write did not happen, or its outcome is unknown."""

_CLASSES: dict[grpc.StatusCode, type[MusterError]] = {
    _Code.INVALID_ARGUMENT: InvalidRequest,
    _Code.OUT_OF_RANGE: InvalidRequest,
    _Code.NOT_FOUND: NotFound,
    _Code.ALREADY_EXISTS: Conflict,
    _Code.FAILED_PRECONDITION: Conflict,
    _Code.ABORTED: Conflict,
    _Code.UNAUTHENTICATED: NotAllowed,
    _Code.PERMISSION_DENIED: NotAllowed,
    _Code.RESOURCE_EXHAUSTED: Overloaded,
    _Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    _Code.UNAVAILABLE: Unavailable,
    _Code.CANCELLED: Cancelled,
}


def translate(error: grpc.RpcError, *, endpoint: str = "", writing: bool = False) -> MusterError:
    """The client's error for one of gRPC's; the caller raises it `from` the original.

    endpoint: the replica asked, where it is known. writing: the call was a write.
    """
    code: grpc.StatusCode = error.code()
    message = error.details() or f"the call ended with {code.name}"
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    violations: list[tuple[str, str]] = []
    trailers = _trailers(error)
    for detail in _details(trailers).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            violations += [(violation.field, violation.description) for violation in bad.field_violations]
        detail.Unpack(info)
        detail.Unpack(retry)
    told = info.metadata.get("outcome", "") if writing else ""
    translated: MusterError
    kind = _CLASSES.get(code, ServiceFailed)
    if kind is InvalidRequest:
        translated = InvalidRequest(message, violations)
    elif kind is Overloaded:
        translated = Overloaded(message, _retry_after_ms(retry, trailers))
    elif kind is DeadlineExceeded:
        translated = DeadlineExceeded(message, (told or "unknown") if writing else "")
    else:
        if kind is ServiceFailed:
            message = f"{code.name}: {message}"
        translated = kind(message)
        translated.outcome = told
    translated.reason = info.reason
    translated.endpoint = endpoint
    return translated


def _trailers(error: grpc.RpcError) -> dict[str, str | bytes]:
    trailing = getattr(error, "trailing_metadata", None)
    return dict((trailing() if trailing is not None else None) or ())


def _details(trailers: dict[str, str | bytes]) -> status_pb2.Status:
    raw = trailers.get(_DETAILS_KEY, b"")
    try:
        return status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"")
    except DecodeError:
        return status_pb2.Status()


def _retry_after_ms(retry: error_details_pb2.RetryInfo, trailers: dict[str, str | bytes]) -> int:
    if retry.HasField("retry_delay"):
        return max(0, int(retry.retry_delay.ToMilliseconds()))
    pushback = str(trailers.get(_PUSHBACK_KEY, ""))
    return int(pushback) if pushback.isdecimal() and len(pushback) < 10 else 0
