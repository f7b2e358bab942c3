"""Ends waits for a server that does not answer.

A server that hangs, or a network that swallows packets, leaves a call waiting for as long as the kernel
believes in the connection; no time-out of the server's own helps then. Shutting the socket from another
thread ends the call with the error of a lost connection.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Overdue:
    """Watches calls on sockets and shuts those that are late. Its one thread starts with the first call."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._numbers = itertools.count()
        self._deadlines: list[tuple[float, int]] = []
        self._watched: dict[int, socket.socket] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, fd: int, limit_s: float) -> Iterator[None]:
        """Shut the socket `fd` if what is done inside takes longer than `limit_s`."""
        # A copy, so that the number still means this connection if its owner closes it meanwhile.
        copy = socket.socket(fileno=os.dup(fd))
        with self._condition:
            number = next(self._numbers)
            self._watched[number] = copy
            heapq.heappush(self._deadlines, (time.monotonic() + limit_s, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-overdue", daemon=True)
                self._thread.start()
            if self._deadlines[0][1] == number:
                self._condition.notify()
        try:
            yield
        finally:
            with self._condition:
                self._watched.pop(number, None)
                copy.close()

    def _run(self) -> None:
        with self._condition:
            while True:
                while self._deadlines and self._deadlines[0][1] not in self._watched:
                    heapq.heappop(self._deadlines)
                if not self._deadlines:
                    self._condition.wait()
                    continue
                wait_s = self._deadlines[0][0] - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
                late = self._watched.pop(heapq.heappop(self._deadlines)[1])
                with suppress(OSError):
                    late.shutdown(socket.SHUT_RDWR)
