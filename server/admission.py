"""What a call says of itself beside its message: how much time it has really left, and its priority.

gRPC counts a call's deadline from the moment it reads the call off the socket, so a pause of the process, or
a socket that nobody reads, is invisible to it: a pause of 300 ms makes ``time_remaining()`` report 313 ms too
much. Clients therefore also send the absolute deadline in metadata, and the smaller remainder counts. An
absolute time compares two clocks; on one machine they are the same clock, elsewhere the difference is
estimated for each connection by the smallest one seen.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import grpc

DEADLINE_KEY = "muster-deadline-unix-us"
PRIORITY_KEY = "muster-priority"

_SAMPLES_MIN = 8
_PEERS_MAX = 4096
# gRPC reports a call without a deadline as one that ends in the far future.
_NO_DEADLINE_S = 365 * 86_400.0


class SkewEstimator:
    """Bounds clock skew by the least delay each connection has shown.

    For one call, ``excess = gRPC remainder - metadata remainder`` is the time the call waited before gRPC saw
    it plus what the server's clock is ahead of the client's. Waiting is never negative and sometimes about
    zero, so the least excess of a connection is its skew (plus its least delay, which gRPC's own deadline has
    counted at the client's side). Until a connection has shown a few calls, the clocks are taken to agree.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def skew_us(self, peer: str, excess_us: int) -> int:
        """Note one call of ``peer``; the skew to take off its excess, microseconds."""
        with self._lock:
            count, least = self._peers.pop(peer, (0, excess_us))
            count, least = count + 1, min(least, excess_us)
            self._peers[peer] = (count, least)
            if len(self._peers) > _PEERS_MAX:
                self._peers.popitem(last=False)
        return least if count >= _SAMPLES_MIN else 0


class Budget:
    """Works out the remaining budget of calls."""

    def __init__(
        self, *, default_us: int, max_us: int, now_unix_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._default_us = default_us
        self._max_us = max_us
        self._now_unix_us = now_unix_us
        self._skew = SkewEstimator()

    def remaining_us(self, context: grpc.ServicerContext, default_us: int | None = None) -> int:
        """Microseconds until the caller stops waiting; 0 or less: it already has.

        default_us: for a call without any deadline; None: the configured one. Never above the configured
        most. An absolute deadline that is not a number is ignored.
        """
        remaining_s = context.time_remaining()
        # An expired call has 0.0 left, so truth must not be tested here.
        none = remaining_s is None or remaining_s > _NO_DEADLINE_S
        remaining_us = None if none else int(remaining_s * 1e6)
        absolute_us = self._absolute_us(context)
        if absolute_us is not None:
            told_us = absolute_us - self._now_unix_us()
            if remaining_us is None:
                remaining_us = told_us
            elif told_us < remaining_us:
                excess_us = remaining_us - told_us
                if not _same_machine(context.peer()):
                    excess_us = max(0, excess_us - self._skew.skew_us(context.peer(), excess_us))
                remaining_us -= excess_us
            elif not _same_machine(context.peer()):
                self._skew.skew_us(context.peer(), remaining_us - told_us)
        if remaining_us is None:
            remaining_us = self._default_us if default_us is None else default_us
        return min(remaining_us, self._max_us)

    @staticmethod
    def _absolute_us(context: grpc.ServicerContext) -> int | None:
        for key, value in context.invocation_metadata():
            if key == DEADLINE_KEY:
                try:
                    return int(value)
                except ValueError:
                    return None
        return None


def told_priority(context: grpc.ServicerContext) -> str | None:
    """The priority that the call's metadata name, as written; the ranking core checks it.

    None: they name none.
    """
    for key, value in context.invocation_metadata():
        if key == PRIORITY_KEY:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return None


def _same_machine(peer: str) -> bool:
    return peer.startswith(("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:"))
