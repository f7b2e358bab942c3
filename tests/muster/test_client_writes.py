from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from muster.client import ClientSettings, errors
from muster.client.writes import NOT_WRITTEN, REFUSALS, UNKNOWN, Write, resend_pause_s

CODE = grpc.StatusCode


class Failed(grpc.RpcError):  # type: ignore[misc]
    """What gRPC raises: a status, with the service's own reason in it or without."""

    def __init__(self, code: grpc.StatusCode, reason: str = "", outcome: str = "") -> None:
        super().__init__()
        self._code = code
        status = status_pb2.Status()
        if reason:
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason=reason, metadata={"outcome": outcome}))
            status.details.append(detail)
        self._trailers = (("grpc-status-details-bin", status.SerializeToString()),)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._code.name

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailers


BROKEN = Failed(CODE.UNAVAILABLE)
STANDBY = Failed(CODE.UNAVAILABLE, "NOT_PRIMARY")
LATE = Failed(CODE.DEADLINE_EXCEEDED)
QUEUED = Failed(CODE.DEADLINE_EXCEEDED, "APPEND_TIMEOUT", NOT_WRITTEN)
COMMITTING = Failed(CODE.DEADLINE_EXCEEDED, "APPEND_TIMEOUT", UNKNOWN)
SHED = Failed(CODE.RESOURCE_EXHAUSTED, "LOG_OVERLOADED")
LOCKED = Failed(CODE.UNAVAILABLE, "STORE_UNAVAILABLE", NOT_WRITTEN)
CUT_OFF = Failed(CODE.UNAVAILABLE, "OUTCOME_UNKNOWN", UNKNOWN)
MISSING = Failed(CODE.NOT_FOUND, "UNKNOWN_PRODUCT")


def end_of(*sendings: Failed) -> errors.MusterError:
    """What a write ends with whose sendings fail like this, with time left until the last one."""
    write = Write(ClientSettings(), 1000.0)
    for sending in sendings[:-1]:
        assert write.failed(sending, 10.0) > 0
    with pytest.raises(errors.MusterError) as caught:
        write.failed(sendings[-1], 0.0)
    return caught.value


@pytest.mark.parametrize(
    ("sendings", "kind", "outcome"),
    [
        ([SHED], errors.Overloaded, NOT_WRITTEN),
        ([MISSING], errors.NotFound, NOT_WRITTEN),
        ([STANDBY], errors.Unavailable, NOT_WRITTEN),
        ([LOCKED], errors.Unavailable, NOT_WRITTEN),
        ([CUT_OFF], errors.Unavailable, UNKNOWN),
        ([CUT_OFF, LOCKED], errors.Unavailable, UNKNOWN),
        ([LOCKED, SHED], errors.Overloaded, NOT_WRITTEN),
        # A reason that says nothing of the outcome, as a replica of an older version gives it.
        ([Failed(CODE.UNAVAILABLE, "STORE_UNAVAILABLE")], errors.Unavailable, UNKNOWN),
        ([QUEUED], errors.DeadlineExceeded, NOT_WRITTEN),
        ([COMMITTING], errors.DeadlineExceeded, UNKNOWN),
        ([LATE], errors.DeadlineExceeded, UNKNOWN),
        ([BROKEN], errors.Unavailable, UNKNOWN),
        ([STANDBY, SHED], errors.Overloaded, NOT_WRITTEN),
        # The first sending may have been written, whatever becomes of the second.
        ([BROKEN, QUEUED], errors.DeadlineExceeded, UNKNOWN),
        ([BROKEN, SHED], errors.Overloaded, UNKNOWN),
        ([BROKEN, MISSING], errors.NotFound, UNKNOWN),
        ([BROKEN, STANDBY], errors.Unavailable, UNKNOWN),
        ([Failed(CODE.INTERNAL, "INTERNAL")], errors.ServiceFailed, UNKNOWN),
        ([Failed(CODE.DEADLINE_EXCEEDED, "BUDGET_SPENT")], errors.DeadlineExceeded, UNKNOWN),
    ],
)
def test_a_write_is_not_written_only_if_each_sending_was_refused(
    sendings: list[Failed], kind: type[errors.MusterError], outcome: str
) -> None:
    error = end_of(*sendings)
    assert type(error) is kind
    assert error.outcome == outcome


def test_what_kept_a_late_write_from_succeeding_is_its_cause() -> None:
    assert end_of(STANDBY, LATE).__cause__ is STANDBY
    assert end_of(LATE).__cause__ is LATE
    assert end_of(STANDBY, SHED).__cause__ is SHED


@given(st.lists(st.sampled_from([BROKEN, STANDBY]), max_size=6), st.sampled_from([SHED, QUEUED, MISSING]))
def test_an_unknown_outcome_is_never_forgotten(earlier: list[Failed], last: Failed) -> None:
    assert (end_of(*earlier, last).outcome == UNKNOWN) is (BROKEN in earlier)


@given(st.integers(1, 40), st.floats(0, 1))
def test_a_pause_stays_within_its_limits(failures: int, drawn: float) -> None:
    settings = ClientSettings(retry_backoff_min_ms=5, retry_backoff_max_ms=50)
    assert 0.005 <= resend_pause_s(settings, failures, lambda: drawn) <= 0.050


def test_the_reasons_that_are_refusals_are_those_of_the_service() -> None:
    from server.errors import TABLE

    assert {row.reason for row in TABLE} >= REFUSALS
