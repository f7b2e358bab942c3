"""The one table from domain error to gRPC status, and the only place that translates.

Each row says what went wrong and what the caller should do next; ``docs/errors.md`` is printed from it
(``python -m server.errors``). Details are the standard ``google.rpc`` messages: ``ErrorInfo`` always,
``BadRequest`` for refused fields, ``RetryInfo`` and the ``grpc-retry-pushback-ms`` trailer for shed load.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

import rankcore
from server.catalogue import errors as catalogue_errors

logger = logging.getLogger(__name__)

DOMAIN = "muster.v1"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
DETAILS_KEY = "grpc-status-details-bin"

# A writer's queue drains in a few commits; asking again sooner than one of them would only lengthen it.
_RETRY_AFTER_MS = 50

# Text and details travel in trailers, of which gRPC accepts 8 KiB by default; more would lose them all.
_TEXT_BYTES_MAX = 512
_VIOLATIONS_MAX = 10
_FIELD_BYTES_MAX = 100
_DESCRIPTION_BYTES_MAX = 200


class ServiceError(Exception):
    """Base of the errors that belong to the services themselves. ``str(error)`` is one sentence."""


class InvalidFields(ServiceError):
    """Fields of a request are refused. ``violations``: pairs of field path and description."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {description}" for field, description in violations))
        self.violations = list(violations)


class UnknownProduct(ServiceError):
    """A product named by the request is not in the catalogue."""


class BudgetSpent(ServiceError):
    """The caller's deadline passed before the request could be answered."""


class CallerLeft(ServiceError):
    """The caller cancelled."""


class ReplicaNotReady(ServiceError):
    """The replica is starting, leaving, or behind the log further than it may be."""


class NotThePrimary(ServiceError):
    """A write reached a standby. ``primary``: the replica to ask, empty where it is not known."""

    def __init__(self, primary: str) -> None:
        where = f"the primary is {primary}" if primary else "no primary is known at the moment"
        super().__init__(f"this replica is a standby and does not accept writes; {where}")
        self.primary = primary


class DeployRefused(ServiceError):
    """A step of a deploy, or a change of bundles, that does not fit the state it would start from."""


class DeployBusy(ServiceError):
    """Another deploy is under way, or another deployer at work on it."""


class CallerRefused(ServiceError):
    """The front refused a caller for who it is; no service ever sees the call."""


class Unauthenticated(CallerRefused):
    """Neither a good token nor a known certificate."""


class TokenExpired(CallerRefused):
    """A token that was good once."""


class ScopeMissing(CallerRefused):
    """The caller may not do this."""


class QuotaExceeded(CallerRefused):
    """The caller calls more often than it may."""


class TooManyRefusals(CallerRefused):
    """Too many bad tokens came from the caller's address."""


class DrillRefused(ServiceError):
    """A drill would do what the operator of this replica does not allow."""


class DrillBusy(ServiceError):
    """Another drill is under way."""


class WatchesFull(ServiceError):
    """As many Watch streams as configured are served already."""


@dataclass(frozen=True)
class Row:
    """One row of the table. reason: the ErrorInfo's; meaning and next_step: for the caller's developer."""

    error: type[BaseException]
    code: grpc.StatusCode
    reason: str
    meaning: str
    next_step: str


_Code = grpc.StatusCode
TABLE: tuple[Row, ...] = (
    Row(
        InvalidFields,
        _Code.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        "Fields of the request are outside their documented range; each is named in `BadRequest`.",
        "Correct the fields. Sending the same request again fails again. Nothing was written.",
    ),
    Row(
        rankcore.InvalidRequest,
        _Code.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        "As above, found by the ranking core; also bytes that are not the message, and an unknown"
        " word in `muster-priority`.",
        "Correct the fields. Sending the same request again fails again.",
    ),
    Row(
        UnknownProduct,
        _Code.NOT_FOUND,
        "UNKNOWN_PRODUCT",
        "`Get` or a patch names a product that the catalogue does not hold.",
        "Upsert the product first. Nothing of the batch was written.",
    ),
    Row(
        rankcore.Overloaded,
        _Code.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "Load was shed: behind the work already queued no plan could finish within the deadline. Of the"
        " priorities, sheddable requests are refused from half of that backlog on, critical ones last.",
        "Wait for as long as `RetryInfo` (and `grpc-retry-pushback-ms`) says, or ask another replica.",
    ),
    Row(
        catalogue_errors.LogOverloaded,
        _Code.RESOURCE_EXHAUSTED,
        "LOG_OVERLOADED",
        "The writer's queue is so long that the batch could not become durable in time. Nothing was written.",
        "Wait for as long as `RetryInfo` says and send the same events, with the same event ids.",
    ),
    Row(
        catalogue_errors.DiskFull,
        _Code.RESOURCE_EXHAUSTED,
        "DISK_FULL",
        "The disk of the log is full. Nothing was written; reads go on.",
        "Make room; writes recover by themselves. Then send the same events.",
    ),
    Row(
        WatchesFull,
        _Code.RESOURCE_EXHAUSTED,
        "WATCHES_FULL",
        "The replica serves as many Watch streams as `rpc.watch_streams_max` allows.",
        "Watch on another replica.",
    ),
    Row(
        BudgetSpent,
        _Code.DEADLINE_EXCEEDED,
        "BUDGET_SPENT",
        "The deadline had passed on arrival, or a durable write was not visible before it did.",
        "Give more time. A write: send it again with the same event ids.",
    ),
    Row(
        rankcore.DeadlineExceeded,
        _Code.DEADLINE_EXCEEDED,
        "BUDGET_TOO_SMALL",
        "Not even the cheapest plan fits the time left, on an idle server.",
        "Give more time; the plans and their cost are in `AdminService.Status`.",
    ),
    Row(
        catalogue_errors.AppendTimeout,
        _Code.DEADLINE_EXCEEDED,
        "APPEND_TIMEOUT",
        "The deadline passed before the events were known to be durable. `ErrorInfo.metadata.outcome` is"
        " `not_written` or `unknown`.",
        "Send the same events with the same event ids; those already written are counted as duplicates.",
    ),
    Row(
        NotThePrimary,
        _Code.UNAVAILABLE,
        "NOT_PRIMARY",
        "A write reached a standby. `ErrorInfo.metadata.primary` names the primary, where it is known.",
        "Ask the primary: the replica whose health reports `muster.v1.CatalogueService` as SERVING.",
    ),
    Row(
        catalogue_errors.NotPrimary,
        _Code.UNAVAILABLE,
        "NOT_PRIMARY",
        "As above; the replica lost the lease before the write was queued. Nothing was written.",
        "Ask the primary.",
    ),
    Row(
        ReplicaNotReady,
        _Code.UNAVAILABLE,
        "NOT_READY",
        "The replica is starting or leaving, or has not applied `min_sequence` in time.",
        "Ask another replica, or wait until health reports SERVING.",
    ),
    Row(
        rankcore.NotReady,
        _Code.UNAVAILABLE,
        "NOT_READY",
        "As above, while ranking: no generation to search yet, or `min_sequence` not applied in time.",
        "Ask another replica, or wait until health reports SERVING.",
    ),
    Row(
        catalogue_errors.StoreUnavailable,
        _Code.UNAVAILABLE,
        "STORE_UNAVAILABLE",
        "The log cannot be read or locked at the moment. Nothing was written: `ErrorInfo.metadata.outcome` is"
        " `not_written`.",
        "Try again with back-off, with the same event ids.",
    ),
    Row(
        catalogue_errors.OutcomeUnknown,
        _Code.UNAVAILABLE,
        "OUTCOME_UNKNOWN",
        "The connection to the store was lost while the events were being committed, or the store does not"
        " vouch for the commit, or the replica no longer follows the log and cannot show them; they may have"
        " been written. `ErrorInfo.metadata.outcome` is `unknown`.",
        "Send the same events with the same event ids; those already written are counted as duplicates.",
    ),
    Row(
        DeployRefused,
        _Code.FAILED_PRECONDITION,
        "DEPLOY_REFUSED",
        "A bundle cannot be loaded, tried out, promoted or rolled back from the state that the replica or the"
        " deploy is in; the text says which. What served before serves on.",
        "Look at `AdminService.BundleStatus` and go on from there; `muster deploy` does.",
    ),
    Row(
        DeployBusy,
        _Code.ABORTED,
        "DEPLOY_BUSY",
        "Another deploy is under way, or another deployer that was heard of lately is at work on it.",
        "Wait for it to end, or run `muster deploy --abort`.",
    ),
    Row(
        DrillRefused,
        _Code.FAILED_PRECONDITION,
        "DRILL_REFUSED",
        "A drill would do what the settings `drills.*` do not allow; the text says which one and what it is.",
        "Ask for less, or have the operator allow it. Nothing was done.",
    ),
    Row(
        DrillBusy,
        _Code.ABORTED,
        "DRILL_BUSY",
        "Another drill is under way against this replica.",
        "Wait for it to end, or run `muster drill abort`.",
    ),
    Row(
        catalogue_errors.Fenced,
        _Code.ABORTED,
        "FENCED",
        "The lease moved to a later epoch while the write was under way. Nothing was written.",
        "Send the same events to the new primary.",
    ),
    Row(
        catalogue_errors.EventsFolded,
        _Code.OUT_OF_RANGE,
        "EVENTS_FOLDED",
        "A Watch begins with, or has fallen back to, events that are folded into the snapshot."
        " `ErrorInfo.metadata.first_sequence` is the first one that is still in the log.",
        "Take the catalogue over anew (`muster catalogue export`), or begin with that sequence.",
    ),
    Row(
        Unauthenticated,
        _Code.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        "The call brought no token and no client certificate that is good here. Which of the rules it broke"
        " is told to the replica's metrics (`muster_auth_refused_total`), not to the caller.",
        "Send `authorization: Bearer TOKEN` with a token for this service (docs/security.md).",
    ),
    Row(
        TokenExpired,
        _Code.UNAUTHENTICATED,
        "TOKEN_EXPIRED",
        "The token was good and has expired.",
        "Send a new token.",
    ),
    Row(
        ScopeMissing,
        _Code.PERMISSION_DENIED,
        "SCOPE_MISSING",
        "The caller is known and may not do this. `ErrorInfo.metadata.scopes` has the scopes of which one"
        " would allow it.",
        "Ask whoever issues tokens for that scope.",
    ),
    Row(
        QuotaExceeded,
        _Code.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        "The caller calls this replica more often than `quota` allows it. Nothing was done.",
        "Wait for as long as `RetryInfo` says, and call less often.",
    ),
    Row(
        TooManyRefusals,
        _Code.RESOURCE_EXHAUSTED,
        "TOO_MANY_REFUSALS",
        "So many bad tokens came from this address that another one is not looked at yet. Tokens that the"
        " replica knows as good are not affected.",
        "Correct the token; wait for as long as `RetryInfo` says.",
    ),
    Row(
        CallerLeft,
        _Code.CANCELLED,
        "CANCELLED",
        "The caller cancelled or its connection broke.",
        "Nothing.",
    ),
    Row(rankcore.Cancelled, _Code.CANCELLED, "CANCELLED", "As above, while ranking.", "Nothing."),
    Row(
        catalogue_errors.StoreError,
        _Code.INTERNAL,
        "STORE_DAMAGED",
        "The log is damaged, or of another version; the text says which.",
        "An operator must act: restore the log, or run the version that wrote it.",
    ),
    Row(
        rankcore.RankError,
        _Code.INTERNAL,
        "RANKING_FAILED",
        "The ranking core failed on this request; the server's log has the cause under the reference.",
        "Report it with the reference.",
    ),
    Row(
        BaseException,
        _Code.INTERNAL,
        "INTERNAL",
        "A defect of the server; its log has the cause under the reference given in the text.",
        "Report it with the reference.",
    ),
)


@dataclass(frozen=True)
class RpcStatus(grpc.Status):  # type: ignore[misc]  # grpc ships no types
    """What ``ServicerContext.abort_with_status`` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def row_of(error: BaseException) -> Row:
    """The first row of the table that the error is an instance of."""
    return next(row for row in TABLE if isinstance(error, row.error))


def status_of(error: BaseException) -> RpcStatus:
    """Translate an error. What the caller did not cause is logged here, with a reference that the caller
    gets.
    """
    row = row_of(error)
    text = _cut(str(error) or row.meaning, _TEXT_BYTES_MAX)
    metadata: dict[str, str] = {}
    details: list[message.Message] = []
    trailers: list[tuple[str, str | bytes]] = []
    if isinstance(error, InvalidFields | rankcore.InvalidRequest):
        details.append(_bad_request(error.violations))
    if isinstance(error, NotThePrimary) and error.primary:
        metadata["primary"] = error.primary
    if isinstance(error, catalogue_errors.AppendTimeout):
        metadata["outcome"] = "unknown" if error.outcome_unknown else "not_written"
    if isinstance(error, catalogue_errors.OutcomeUnknown):
        metadata["outcome"] = "unknown"
    if isinstance(error, catalogue_errors.StoreUnavailable):
        metadata["outcome"] = "not_written"
    if isinstance(error, catalogue_errors.EventsFolded):
        metadata["first_sequence"] = str(error.first_sequence)
    if row.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry_after_ms = max(1, int(getattr(error, "retry_after_ms", _RETRY_AFTER_MS)))
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        trailers.append((PUSHBACK_KEY, str(retry_after_ms)))
    if row.code is grpc.StatusCode.INTERNAL:
        reference = uuid.uuid4().hex[:12]
        logger.error("request failed, reference %s", reference, exc_info=error)
        text = f"{row.meaning.split(';')[0].rstrip('.')} (reference {reference})"
    return _status(row, text, metadata, details, trailers)


def _status(
    row: Row,
    text: str,
    metadata: Mapping[str, str],
    details: Sequence[message.Message],
    trailers: Sequence[tuple[str, str | bytes]],
) -> RpcStatus:
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=metadata)
    packed = []
    for detail in (info, *details):
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    status = status_pb2.Status(code=code_pb2.Code.Value(row.code.name), message=text, details=packed)
    return RpcStatus(row.code, text, ((DETAILS_KEY, status.SerializeToString()), *trailers))


def _bad_request(violations: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """The first violations; one more says how many are left out."""
    told = [
        (_cut(field, _FIELD_BYTES_MAX), _cut(description, _DESCRIPTION_BYTES_MAX))
        for field, description in violations[:_VIOLATIONS_MAX]
    ]
    if len(violations) > _VIOLATIONS_MAX:
        told.append(("", f"and {len(violations) - _VIOLATIONS_MAX} more"))
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in told
        ]
    )


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode()
    return text if len(data) <= bytes_max else data[: bytes_max - 3].decode(errors="ignore") + "..."


def reference() -> str:
    """The reference page of all statuses, Markdown."""
    lines = [
        "# Errors",
        "",
        "Each failed call carries a gRPC status, one sentence of text, and the standard `google.rpc`",
        "details in `grpc-status-details-bin`: `ErrorInfo` (domain `muster.v1`, a stable `reason`) always,",
        "`BadRequest` with one violation for each refused field, `RetryInfo` and the trailer",
        "`grpc-retry-pushback-ms` for shed load. Only UNAVAILABLE and ABORTED are worth resending at once;",
        "RESOURCE_EXHAUSTED only after the pause it names. A broken invariant (a failed fsync of the log)",
        "ends the process and is no status.",
        "",
        "gRPC itself answers UNIMPLEMENTED for unknown methods, and RESOURCE_EXHAUSTED for messages above",
        "`rpc.request_bytes_max` and calls above `rpc.requests_in_flight_max`.",
        "",
        "This page is generated: `python -m server.errors > docs/errors.md`.",
        "",
        "| status | reason | means | do next |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row.code.name} | {row.reason} | {row.meaning} | {row.next_step} |" for row in TABLE]
    lines += [
        "",
        "## Exit codes of `muster serve`",
        "",
        "| code | means |",
        "|---|---|",
        "| 0 | drained after SIGTERM, SIGINT or `AdminService.Drain` |",
        "| 1 | an unexpected failure; the log says which |",
        "| 2 | settings, folders, address, log or bundle cannot be served; one line for each problem |",
        "| 74 | the disk of the log failed; nothing was acknowledged that is not durable |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
