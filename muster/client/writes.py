"""How one write is sent until its outcome is known: a state machine without clock, threads or sockets.

The synchronous and the asynchronous client both drive it. It keeps one fact over all sendings: whether one of
them may have been written. A later sending that was certainly refused does not make that untrue, so a write
ends as "not_written" only if each of its sendings did.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from muster.client import errors
from muster.client.settings import ClientSettings

UNKNOWN = "unknown"
NOT_WRITTEN = "not_written"

LOOK_AFTER_S = 1.0
"""A write that has waited for so long, or for half of its time, asks every replica who the primary is. The
same answers serve all writes of a client for as long."""

REFUSALS = frozenset(
    {
        "INVALID_FIELDS",
        "UNKNOWN_PRODUCT",
        "LOG_OVERLOADED",
        "DISK_FULL",
        "NOT_PRIMARY",
        "NOT_READY",
        "FENCED",
        "UNAUTHENTICATED",
        "TOKEN_EXPIRED",
        "SCOPE_MISSING",
        "QUOTA_EXCEEDED",
        "TOO_MANY_REFUSALS",
    }
)
"""Reasons of the service that say for certain that this sending wrote nothing."""


@dataclass
class Write:
    """The course of one write. budget_ms: its whole time.

    After each sending that failed, `failed` says how long to pause before the same events are sent again, or
    raises what the caller is told. may_be_written: some sending had an unknown outcome. waited: for so long
    that the replicas were asked who the primary is. seen: what they told; empty: nothing of use.
    """

    settings: ClientSettings
    budget_ms: float
    jitter: Callable[[], float] = random.random
    may_be_written: bool = False
    waited: bool = False
    seen: str = ""
    _failures: int = 0
    _earlier: grpc.RpcError | None = None

    def failed(self, error: grpc.RpcError, left_s: float) -> float:
        """A sending failed, with left_s seconds of the time left. Returns: seconds to pause.

        Raises: MusterError, with its `outcome`, where the events must not be sent again, or no time is left.
        """
        code = error.code()
        translated = errors.translate(error, writing=True)
        self.may_be_written |= not _certainly_refused(translated)
        self._failures += 1
        if code in errors.RESENDABLE:
            pause_s = resend_pause_s(self.settings, self._failures, self.jitter)
            if left_s > pause_s:
                self._earlier = error
                return pause_s
        cause = error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and self._earlier is not None:
            # What kept the write from succeeding says more than that the time is over.
            cause = self._earlier
        if isinstance(translated, errors.DeadlineExceeded):
            raise self._deadline(translated) from cause
        translated.outcome = self._outcome()
        raise translated from cause

    def _outcome(self) -> str:
        return UNKNOWN if self.may_be_written else NOT_WRITTEN

    def _deadline(self, last: errors.DeadlineExceeded) -> errors.DeadlineExceeded:
        found = errors.DeadlineExceeded(
            f"the write was not acknowledged within {self.budget_ms:g} ms ({self.seen or last}); "
            "send the same events again, their ids keep them from being applied twice",
            self._outcome(),
        )
        found.reason = last.reason
        return found


def look_after_s(left_s: float) -> float:
    """How long a sending with so much time left waits before the replicas are asked."""
    return min(LOOK_AFTER_S, left_s / 2)


def _certainly_refused(error: errors.MusterError) -> bool:
    return error.reason in REFUSALS or error.outcome == NOT_WRITTEN


def resend_pause_s(
    settings: ClientSettings, failures: int, jitter: Callable[[], float] = random.random
) -> float:
    """A random pause that grows with the failures, so that clients do not return in step."""
    least_ms = settings.retry_backoff_min_ms
    most_ms = min(settings.retry_backoff_max_ms, least_ms * 2.0 ** min(failures, 16))
    return (least_ms + jitter() * (most_ms - least_ms)) / 1000
