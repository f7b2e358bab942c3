"""How much time a call has really left.

gRPC counts a call's deadline from the moment it reads the call off the socket, so what happened before is
invisible to it. The front of the replica (``rankcore.Front``) reads the caller's deadline from both places
where it may stand, gRPC's own and the absolute one in metadata, allows for clocks that disagree, and tells
the services behind it in metadata of its own when the smaller remainder ends on this machine's monotonic
clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

DEADLINE_KEY = "muster-deadline-monotonic-us"
"""Set by the front; it takes this key off the calls of clients."""


class Budget:
    """Works out the remaining budget of calls."""

    def __init__(
        self,
        *,
        default_us: int,
        max_us: int,
        now_monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._default_us = default_us
        self._max_us = max_us
        self._now_monotonic_us = now_monotonic_us

    def remaining_us(self, context: grpc.ServicerContext, default_us: int | None = None) -> int:
        """Microseconds until the caller stops waiting; 0 or less: it already has.

        default_us: for a call without any deadline; None: the configured one. Never above the configured
        most.
        """
        for key, value in context.invocation_metadata():
            if key == DEADLINE_KEY:
                return min(int(value) - self._now_monotonic_us(), self._max_us)
        return min(self._default_us if default_us is None else default_us, self._max_us)
