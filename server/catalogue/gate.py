"""The order of writes within a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from server.catalogue.errors import StoreUnavailable


class WriteGate:
    """One writer at a time within the process, the lease before the log.

    A database's own lock is not fair: without this, a busy log could keep a renewal waiting past its lease.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held = False
        self._urgent = 0

    @contextmanager
    def enter(self, *, urgent: bool, timeout_s: float) -> Iterator[None]:
        """Hold the gate. Raises: StoreUnavailable if it was not free in time."""
        with self._condition:
            self._urgent += urgent
            try:
                free = self._condition.wait_for(
                    lambda: not self._held and (urgent or not self._urgent), timeout=timeout_s
                )
            finally:
                self._urgent -= urgent
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
