"""Simulated time: a heap of what happens when. Nothing here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable

US = 1_000
MS = 1_000_000
S = 1_000_000_000

Action = Callable[[], None]


class Clock:
    """True time in nanoseconds, which nobody in the world can read, and the actions due in it."""

    __slots__ = ("_count", "_due", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, int, Action]] = []
        self._count = 0

    def after(self, delay_ns: int, action: Action) -> None:
        """Let the action happen so much later; of those due at one moment the first scheduled goes first."""
        self._count += 1
        heapq.heappush(self._due, (self.now_ns + delay_ns, self._count, action))

    def step(self) -> None:
        """Let the next action happen. Raises: IndexError if there is none, which a living world never has."""
        self.now_ns, _, action = heapq.heappop(self._due)
        action()
