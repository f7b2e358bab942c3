"""How one read goes about its replicas: a state machine without clock, threads or sockets.

`Replicas` remembers which replicas failed lately; `Read` decides, for one request, which replica is asked
when. The synchronous and the asynchronous client both drive it, so they behave alike.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from muster.client.budgets import HedgeBudget, RetryBudget
from muster.client.settings import ClientSettings

_AVOID_MIN_S = 0.25
_AVOID_MAX_S = 2.0


@dataclass
class Replica:
    """One replica as this client knows it. avoid_until_s: monotonic seconds."""

    endpoint: str
    failures: int = 0
    avoid_until_s: float = 0.0


class Replicas:
    """All replicas, in turn; those that failed or hung lately come last. Thread-safe."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._replicas = [Replica(endpoint) for endpoint in endpoints]
        self._turn = random.randrange(len(self._replicas))
        self._lock = threading.Lock()

    def order(self, now_s: float) -> list[Replica]:
        """Every replica once, best first; successive calls begin with different ones."""
        with self._lock:
            self._turn = (self._turn + 1) % len(self._replicas)
            turned = self._replicas[self._turn :] + self._replicas[: self._turn]
            turned.sort(
                key=lambda replica: max(replica.avoid_until_s, now_s)
            )  # stable: the turn decides ties
            first = turned[0]
            if first.failures:
                # A replica whose time of avoidance is over is tried by one request, not by all at once.
                first.avoid_until_s = now_s + _AVOID_MIN_S
            return turned

    def answered(self, replica: Replica) -> None:
        """The replica answered."""
        with self._lock:
            replica.failures = 0
            replica.avoid_until_s = 0.0

    def failed(self, replica: Replica, now_s: float) -> None:
        """The replica was unavailable, or silent while another one answered."""
        with self._lock:
            pause = min(_AVOID_MAX_S, _AVOID_MIN_S * 2**replica.failures)
            replica.failures = min(replica.failures + 1, 8)
            replica.avoid_until_s = max(replica.avoid_until_s, now_s + pause)


@dataclass
class Read:
    """The course of one read. Times are monotonic seconds.

    `begin` gives the replica to ask first. Then, until an answer comes: at `wake_at_s` call `wake`; when a
    sending fails call `failed`; each may give a replica to ask as well. `over` is True when nothing is left
    to wait for.
    """

    replicas: Replicas
    settings: ClientSettings
    retries: RetryBudget
    hedges: HedgeBudget
    hedge_after_s: float
    jitter: Callable[[], float] = random.random
    pending: list[Replica] = field(default_factory=list)
    over: bool = False
    _order: list[Replica] = field(default_factory=list)
    _sent: int = 0
    _rounds: int = 0
    _hedge_at_s: float | None = None
    _retry_at_s: float | None = None

    def begin(self, now_s: float) -> Replica:
        """The replica to ask first."""
        self.hedges.read()
        self._order = self.replicas.order(now_s)
        if len(self._order) > 1:
            self._hedge_at_s = now_s + self.hedge_after_s
        return self._send()

    def wake_at_s(self) -> float | None:
        """When to call `wake`; None: only the sendings under way count."""
        times = [at for at in (self._hedge_at_s, self._retry_at_s) if at is not None]
        return min(times, default=None)

    def wake(self, now_s: float) -> Replica | None:
        """The replica to ask now as well, if any."""
        if self._retry_at_s is not None and now_s >= self._retry_at_s:
            self._retry_at_s = None
            return self._send()
        if self._hedge_at_s is not None and now_s >= self._hedge_at_s:
            self._hedge_at_s = None
            if self._sent < self._most() and self._untried() and self.hedges.take():
                return self._send()
        return None

    def answered(self, replica: Replica, now_s: float) -> None:
        """An answer came; replicas asked earlier that are still silent are avoided for a while."""
        self.replicas.answered(replica)
        self.retries.succeeded()
        if replica in self.pending:
            for silent in self.pending[: self.pending.index(replica)]:
                if silent is not replica:
                    self.replicas.failed(silent, now_s)
        self.over = True

    def expired(self, now_s: float) -> None:
        """The deadline passed: whoever is still silent is avoided for a while."""
        for silent in self.pending:
            self.replicas.failed(silent, now_s)
        self.over = True

    def failed(self, replica: Replica, now_s: float, *, retryable: bool) -> Replica | None:
        """A sending failed; retryable: another replica may do better. Returns: the replica to ask now."""
        self.pending.remove(replica)
        if retryable:
            self.replicas.failed(replica, now_s)
            if self.retries.failed() and self._sent < self._most():
                if self._untried():
                    return self._send()
                if not self.pending and self._retry_at_s is None:
                    most = self.settings.retry_backoff_min_ms * 2**self._rounds
                    least = self.settings.retry_backoff_min_ms
                    pause_ms = least + self.jitter() * (min(most, self.settings.retry_backoff_max_ms) - least)
                    self._rounds += 1
                    self._retry_at_s = now_s + pause_ms / 1000
        if not self.pending and self._retry_at_s is None:
            self.over = True
        return None

    def _most(self) -> int:
        # Every replica may be asked once, even where there are more of them than attempts.
        return max(self.settings.attempts_max, len(self._order))

    def _untried(self) -> bool:
        return self._sent < len(self._order)

    def _send(self) -> Replica:
        replica = self._order[self._sent % len(self._order)]
        self._sent += 1
        self.pending.append(replica)
        return replica
