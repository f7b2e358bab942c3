"""The table from domain error to status, and the details that go with each."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import rankcore
from server import errors
from server.catalogue import errors as catalogue_errors

ROOT = Path(__file__).parents[2]
Code = grpc.StatusCode


def details(status: errors.RpcStatus) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(status.trailing_metadata)[errors.DETAILS_KEY])  # type: ignore[arg-type]


def unpack(status: errors.RpcStatus, kind: type) -> list[object]:
    found = []
    for detail in details(status).details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.InvalidFields([("query", "is empty")]), Code.INVALID_ARGUMENT, "INVALID_FIELDS"),
        (errors.UnknownProduct("p"), Code.NOT_FOUND, "UNKNOWN_PRODUCT"),
        (errors.BudgetSpent("late"), Code.DEADLINE_EXCEEDED, "BUDGET_SPENT"),
        (errors.CallerLeft("gone"), Code.CANCELLED, "CANCELLED"),
        (errors.ReplicaNotReady("starting"), Code.UNAVAILABLE, "NOT_READY"),
        (errors.NotThePrimary("a"), Code.UNAVAILABLE, "NOT_PRIMARY"),
        (errors.WatchesFull("2"), Code.RESOURCE_EXHAUSTED, "WATCHES_FULL"),
        (rankcore.DeadlineExceeded("small"), Code.DEADLINE_EXCEEDED, "BUDGET_TOO_SMALL"),
        (rankcore.NotReady("empty"), Code.UNAVAILABLE, "NOT_READY"),
        (rankcore.Cancelled("gone"), Code.CANCELLED, "CANCELLED"),
        (rankcore.RankError("model failed"), Code.INTERNAL, "RANKING_FAILED"),
        (rankcore.GenerationError("file"), Code.INTERNAL, "RANKING_FAILED"),
        (catalogue_errors.NotPrimary("no lease"), Code.UNAVAILABLE, "NOT_PRIMARY"),
        (catalogue_errors.Fenced(3, 4), Code.ABORTED, "FENCED"),
        (
            catalogue_errors.LogOverloaded("full", retry_after_ms=70),
            Code.RESOURCE_EXHAUSTED,
            "LOG_OVERLOADED",
        ),
        (
            catalogue_errors.AppendTimeout("late", outcome_unknown=True),
            Code.DEADLINE_EXCEEDED,
            "APPEND_TIMEOUT",
        ),
        (catalogue_errors.DiskFull("full"), Code.RESOURCE_EXHAUSTED, "DISK_FULL"),
        (catalogue_errors.StoreUnavailable("locked"), Code.UNAVAILABLE, "STORE_UNAVAILABLE"),
        (catalogue_errors.OutcomeUnknown("lost"), Code.UNAVAILABLE, "OUTCOME_UNKNOWN"),
        (catalogue_errors.StoreDamaged("torn"), Code.INTERNAL, "STORE_DAMAGED"),
        (ValueError("a defect"), Code.INTERNAL, "INTERNAL"),
        (KeyboardInterrupt(), Code.INTERNAL, "INTERNAL"),
    ],
)
def test_each_error_has_its_status_and_reason(
    error: BaseException, code: grpc.StatusCode, reason: str
) -> None:
    status = errors.status_of(error)
    assert status.code is code
    assert details(status).code == code.value[0]
    assert details(status).message == status.details
    [info] = unpack(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason, "muster.v1")  # type: ignore[attr-defined]


def test_refused_fields_are_named_one_by_one() -> None:
    status = errors.status_of(errors.InvalidFields([("query", "is empty"), ("page_size", "is 200")]))
    [bad] = unpack(status, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [  # type: ignore[attr-defined]
        ("query", "is empty"),
        ("page_size", "is 200"),
    ]


def test_a_thousand_violations_still_fit_into_trailers() -> None:
    violations = [(f"events[{number}].upsert.title" * 9, "\u00e9" * 900) for number in range(1000)]
    status = errors.status_of(errors.InvalidFields(violations))
    [bad] = unpack(status, error_details_pb2.BadRequest)
    assert len(bad.field_violations) == 11  # type: ignore[attr-defined]
    assert bad.field_violations[-1].description == "and 990 more"  # type: ignore[attr-defined]
    details_bytes = len(dict(status.trailing_metadata)[errors.DETAILS_KEY])
    text_bytes = len(status.details.encode()) * 3
    assert details_bytes * 4 / 3 + text_bytes < 8 * 1024 - 512


@pytest.mark.parametrize(
    ("error", "retry_after_ms"),
    [
        (catalogue_errors.LogOverloaded("full", retry_after_ms=70), 70),
        (catalogue_errors.LogOverloaded("full", retry_after_ms=0), 1),
        (catalogue_errors.DiskFull("full"), 50),
    ],
)
def test_shed_load_says_when_to_come_back_twice(error: BaseException, retry_after_ms: int) -> None:
    status = errors.status_of(error)
    [retry] = unpack(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == retry_after_ms  # type: ignore[attr-defined]
    assert dict(status.trailing_metadata)[errors.PUSHBACK_KEY] == str(retry_after_ms)


def test_nothing_but_shed_load_carries_a_pushback() -> None:
    assert errors.PUSHBACK_KEY not in dict(errors.status_of(errors.NotThePrimary("a")).trailing_metadata)


def test_the_primary_is_named_where_it_is_known() -> None:
    [known] = unpack(errors.status_of(errors.NotThePrimary("a")), error_details_pb2.ErrorInfo)
    [unknown] = unpack(errors.status_of(errors.NotThePrimary("")), error_details_pb2.ErrorInfo)
    assert dict(known.metadata) == {"primary": "a"}  # type: ignore[attr-defined]
    assert dict(unknown.metadata) == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("unknown", "outcome"), [(True, "unknown"), (False, "not_written")])
def test_a_timed_out_append_says_whether_it_may_have_been_written(unknown: bool, outcome: str) -> None:
    status = errors.status_of(catalogue_errors.AppendTimeout("late", outcome_unknown=unknown))
    [info] = unpack(status, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"outcome": outcome}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (catalogue_errors.StoreUnavailable("locked"), "not_written"),
        (catalogue_errors.OutcomeUnknown("lost"), "unknown"),
    ],
)
def test_a_store_that_was_lost_says_whether_it_was_at_the_commit(error: Exception, outcome: str) -> None:
    [info] = unpack(errors.status_of(error), error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"outcome": outcome}  # type: ignore[attr-defined]


def test_a_defect_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    status = errors.status_of(ValueError("secret detail"))
    assert "secret detail" not in status.details
    reference = status.details.rpartition("reference ")[2].rstrip(")")
    assert reference in caplog.text
    assert "secret detail" in caplog.text


def test_every_error_has_its_own_row_before_a_more_general_one() -> None:
    for index, row in enumerate(errors.TABLE):
        for earlier in errors.TABLE[:index]:
            assert not issubclass(row.error, earlier.error), f"{row.error} is never reached"


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert page == errors.reference(), "run: python -m server.errors > docs/errors.md"
