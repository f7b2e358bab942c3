"""The order of writes within a process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from server.catalogue.errors import StoreUnavailable


class WriteGate:
    """One writer at a time within the process: the lease first, the others in the order of their coming.

    A database's own lock is not fair: without this, a busy log could keep a renewal waiting past its lease,
    and old events from ever being folded.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held = False
        self._urgent = 0
        self._waiting: deque[object] = deque()

    @contextmanager
    def enter(self, *, urgent: bool, timeout_s: float) -> Iterator[None]:
        """Hold the gate. Raises: StoreUnavailable if it was not free in time."""
        place = object()
        with self._condition:
            if urgent:
                self._urgent += 1
            else:
                self._waiting.append(place)
            try:
                free = self._condition.wait_for(
                    lambda: not self._held and (urgent or (not self._urgent and self._waiting[0] is place)),
                    timeout=timeout_s,
                )
            finally:
                if urgent:
                    self._urgent -= 1
                else:
                    self._waiting.remove(place)
            if not free:
                self._condition.notify_all()
                raise StoreUnavailable("another write of this process has not finished in time")
            self._held = True
        try:
            yield
        finally:
            with self._condition:
                self._held = False
                self._condition.notify_all()
