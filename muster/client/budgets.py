"""What keeps retries and hedges from feeding a storm. All thread-safe."""

from __future__ import annotations

import math
import threading
from collections import deque


class RetryBudget:
    """gRPC's retry throttling: a failure takes one token, a success brings `ratio` back.

    Retries are allowed only while more than half of the tokens are there.
    """

    def __init__(self, tokens_max: int, ratio: float) -> None:
        self._most = float(tokens_max)
        self._tokens = self._most
        self._ratio = ratio
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """An attempt was answered."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._ratio)

    def failed(self) -> bool:
        """An attempt failed in a way that a retry may mend. Returns: whether retrying is allowed."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._most / 2


class HedgeBudget:
    """Second sendings: `share` of the reads on the long run, `burst` at once."""

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._tokens = self._burst
        self._lock = threading.Lock()

    def read(self) -> None:
        """A read begins."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + self._share)

    def take(self) -> bool:
        """Asks for one second sending. Returns: whether it is allowed."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class HedgeDelay:
    """When to send a read a second time: after what nineteen of twenty answers took, but not before
    `least_ms`; and by that measure, which answers are slow.

    A server uses as much of the budget as is worth it, so answers are kept apart by the budget's power of
    two. The delay always leaves the second replica half of the budget, or as much as `least_ms`.
    """

    _WINDOW = 128
    _ENOUGH = 20
    _SLOW_FACTOR = 3.0
    _SLOW_MARGIN_MS = 10.0

    def __init__(self, least_ms: float) -> None:
        self._least_ms = least_ms
        self._recent: dict[tuple[str, int], deque[float]] = {}
        self._lock = threading.Lock()

    @staticmethod
    def _key(method: str, budget_ms: float) -> tuple[str, int]:
        return method, math.frexp(budget_ms)[1]

    def answered(self, method: str, budget_ms: float, took_ms: float) -> None:
        """An answer came from the replica asked first."""
        key = self._key(method, budget_ms)
        with self._lock:
            self._recent.setdefault(key, deque(maxlen=self._WINDOW)).append(took_ms)

    def delay_ms(self, method: str, budget_ms: float) -> float:
        """Milliseconds of silence after which to hedge."""
        usual = self._quantile_ms(method, budget_ms, 0.95)
        latest = max(budget_ms / 2, budget_ms - self._least_ms)
        return min(max(self._least_ms, usual or 0.0), latest)

    def slow(self, method: str, budget_ms: float, took_ms: float) -> bool:
        """Whether an answer took much longer than the faster ones: three times their lower quartile, and 10
        ms longer.

        The quartile, because with two replicas half of all answers may come from a slow one.
        """
        if took_ms <= self._SLOW_MARGIN_MS:
            return False
        usual = self._quantile_ms(method, budget_ms, 0.25)
        return usual is not None and took_ms > max(self._SLOW_FACTOR * usual, usual + self._SLOW_MARGIN_MS)

    def _quantile_ms(self, method: str, budget_ms: float, share: float) -> float | None:
        """Of the recent answers; None: too few."""
        with self._lock:
            recent = sorted(self._recent.get(self._key(method, budget_ms), ()))
        return recent[int(len(recent) * share)] if len(recent) >= self._ENOUGH else None
