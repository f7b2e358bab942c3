"""How one read goes about its replicas: a state machine without clock, threads or sockets.

`Replicas` knows which replicas are left aside; `Read` decides, for one request, which replica is asked when,
and for how long. The synchronous and the asynchronous client both drive it, so they behave alike.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from muster.client import errors
from muster.client.budgets import HedgeBudget, HedgeDelay, RetryBudget
from muster.client.outliers import Replica, to_eject
from muster.client.requests import Deadline
from muster.client.settings import ClientSettings

_CALLERS_OWN = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.CANCELLED,
    }
)
"""Codes that say nothing against the replica that sent them."""

_ON_TIME_S = 0.001
"""gRPC may end a call this much before its deadline."""

_LATE_S = 0.1
"""Grace after the deadline for gRPC to say that it has passed."""


class Replicas:
    """All replicas, in turn; those that are left aside come last. Thread-safe."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._replicas = [Replica(endpoint) for endpoint in endpoints]
        self._turn = random.randrange(len(self._replicas))
        self._lock = threading.Lock()

    def order(self, now_s: float, wanted: int = 0) -> list[Replica]:
        """Every replica once, best first; successive calls begin with different ones.

        wanted: the sequence that the answer must show. Those known to have it come before those that are not:
        while the store is away nobody can catch up.
        """
        with self._lock:
            self._turn = (self._turn + 1) % len(self._replicas)
            turned = self._replicas[self._turn :] + self._replicas[: self._turn]
            # Stable: the turn decides ties.
            turned.sort(key=lambda one: (one.rank(now_s), one.applied < wanted))
            turned[0].try_once(now_s)
            return turned

    def mistrusted(self) -> list[str]:
        """The endpoints of those that are tried by one read at a time: they were silent or unavailable, or
        stood out, and have not answered well since."""
        with self._lock:
            return [replica.endpoint for replica in self._replicas if replica.on_trial]

    def answered(self, replica: Replica, now_s: float, *, bad: bool = False, applied: int = 0) -> None:
        """The replica answered. bad: slowly, or with an error that is not the caller's fault. applied: up to
        which sequence its answer shows the log; 0: it does not say."""
        with self._lock:
            replica.applied = applied or replica.applied
            replica.answer(bad)
            if bad and to_eject(replica, self._replicas):
                replica.eject(now_s)

    def failed(self, replica: Replica, now_s: float) -> None:
        """The replica was unavailable, or silent until there was no more time to wait."""
        with self._lock:
            replica.fail(now_s)

    def lost(self, replica: Replica, now_s: float) -> None:
        """The replica was silent while another one, asked later, answered."""
        with self._lock:
            replica.lose(now_s)


class Sendings:
    """How many reads were begun, and how often they were sent in all. Thread-safe."""

    def __init__(self) -> None:
        self._reads = self._sent = 0
        self._lock = threading.Lock()

    def sent(self, *, first: bool) -> None:
        """A read was sent. first: for the first time."""
        with self._lock:
            self._reads += first
            self._sent += 1

    def counts(self) -> tuple[int, int]:
        """Reads and sendings so far."""
        with self._lock:
            return self._reads, self._sent


@dataclass(frozen=True, eq=False)
class Attempt:
    """One sending of a read. began_s, ends_s: when it was sent and its own deadline, monotonic seconds."""

    replica: Replica
    began_s: float
    ends_s: float


@dataclass
class Read:
    """The course of one read. Times are monotonic seconds; deadline_s is the caller's. wanted: the sequence
    that the answer must show.

    `begin` gives the first attempt. Then, until `over`: at `wait_until_s` call `wake`, when an attempt fails
    call `failed`; each may give one more attempt to send. An answer ends it, by `answered`. Where none came,
    `error` is what to raise.

    An attempt that another replica could still follow ends early enough to leave that one its share of the
    time; none ends after the deadline.
    """

    method: str
    budget_ms: float
    deadline_s: float
    replicas: Replicas
    settings: ClientSettings
    retries: RetryBudget
    hedges: HedgeBudget
    hedge_delay: HedgeDelay
    jitter: Callable[[], float] = random.random
    sendings: Sendings = field(default_factory=Sendings)
    wanted: int = 0
    pending: list[Attempt] = field(default_factory=list)
    sent: int = 0
    over: bool = False
    _order: list[Replica] = field(default_factory=list)
    _probing: bool = False
    _rounds: int = 0
    _hedge_at_s: float | None = None
    _retry_at_s: float | None = None
    _failure: tuple[grpc.RpcError, Replica] | None = None
    _expired: bool = False

    def begin(self, now_s: float) -> Attempt:
        """The attempt to send first."""
        self.hedges.read()
        self._order = self.replicas.order(now_s, self.wanted)
        # The client chose to try a replica that it mistrusts: that must not cost the caller the answer.
        self._probing = self._order[0].on_trial and not all(one.on_trial for one in self._order)
        if len(self._order) > 1:
            self._hedge_at_s = now_s + self.hedge_delay.delay_ms(self.method, self.budget_ms) / 1000
        return self._send(now_s)

    def wait_until_s(self) -> float:
        """When to call `wake`, unless an attempt ends before."""
        # With a sending under way its own deadline ends the wait; the margin is for a late report of that.
        limit_s = self.deadline_s + (_LATE_S if self.pending else 0.0)
        return min([limit_s, *(at for at in (self._hedge_at_s, self._retry_at_s) if at is not None)])

    def wake(self, now_s: float) -> Attempt | None:
        """The attempt to send now as well, if any."""
        if now_s >= self.deadline_s:
            if now_s >= self.deadline_s + (_LATE_S if self.pending else 0.0):
                self._expire(now_s)
            self._hedge_at_s = self._retry_at_s = None
            return None
        if self._retry_at_s is not None and now_s >= self._retry_at_s:
            self._retry_at_s = None
            return self._send(now_s)
        if self._hedge_at_s is not None and now_s >= self._hedge_at_s:
            self._hedge_at_s = None
            if self.sent < self._most() and self._untried() and (self._probing or self.hedges.take()):
                return self._send(now_s)
        return None

    def answered(self, attempt: Attempt, now_s: float, applied: int = 0) -> None:
        """An answer came; replicas asked earlier that are still silent have lost. applied: the sequence that
        it shows."""
        took_ms = (now_s - attempt.began_s) * 1000
        slow = self.hedge_delay.slow(self.method, self.budget_ms, took_ms)
        if self.sent == 1:
            self.hedge_delay.answered(self.method, self.budget_ms, took_ms)
        self.replicas.answered(attempt.replica, now_s, bad=slow, applied=applied)
        self.retries.succeeded()
        if attempt in self.pending:
            for silent in self.pending[: self.pending.index(attempt)]:
                if silent.replica is not attempt.replica:
                    self.replicas.lost(silent.replica, now_s)
        self.over = True

    def failed(self, attempt: Attempt, now_s: float, error: grpc.RpcError) -> Attempt | None:
        """An attempt failed. Returns: one to send at once instead, if any."""
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and now_s >= attempt.ends_s - _ON_TIME_S:
            if now_s >= self.deadline_s - _ON_TIME_S:
                self._expire(now_s)
                return None
            # Only its own share of the time is over.
            retryable = True
        else:
            retryable = code in errors.RETRYABLE
            if self._failure is None or self._failure[0].code() in errors.RETRYABLE:
                self._failure = (error, attempt.replica)
        self.pending.remove(attempt)
        if retryable:
            probe = self._probing and attempt.replica is self._order[0]
            self.replicas.failed(attempt.replica, now_s)
            if (probe or self.retries.failed()) and self.sent < self._most() and now_s < self.deadline_s:
                if self._untried():
                    return self._send(now_s)
                if not self.pending and self._retry_at_s is None:
                    self._retry_at_s = now_s + self._pause_s()
        else:
            self.replicas.answered(attempt.replica, now_s, bad=code not in _CALLERS_OWN)
        if not self.pending and self._retry_at_s is None:
            self.over = True
        return None

    def error(self) -> errors.MusterError:
        """What a read that is over without an answer ends with; its cause is set."""
        translated = None
        if self._failure is not None:
            cause, replica = self._failure
            translated = errors.translate(cause, endpoint=replica.endpoint)
        if self._expired or translated is None:
            last = "" if translated is None else f"; before that: {translated}"
            found: errors.MusterError = errors.DeadlineExceeded(
                f"no answer within {self.budget_ms:g} ms from {self.sent} sending(s){last}"
            )
        else:
            found = translated
        found.__cause__ = self._failure[0] if self._failure is not None else None
        return found

    def _expire(self, now_s: float) -> None:
        """The deadline passed: whoever is still silent has failed."""
        for silent in self.pending:
            self.replicas.failed(silent.replica, now_s)
        self._expired = self.over = True

    def _pause_s(self) -> float:
        least_ms = self.settings.retry_backoff_min_ms
        most_ms = min(least_ms * 2.0**self._rounds, self.settings.retry_backoff_max_ms)
        self._rounds += 1
        return (least_ms + self.jitter() * (most_ms - least_ms)) / 1000

    def _most(self) -> int:
        # Every replica may be asked once, even where there are more of them than attempts.
        return max(self.settings.attempts_max, len(self._order))

    def _untried(self) -> bool:
        return self.sent < len(self._order)

    def _send(self, now_s: float) -> Attempt:
        replica = self._order[self.sent % len(self._order)]
        self.sent += 1
        self.sendings.sent(first=self.sent == 1)
        kept_s = (self.deadline_s - now_s) * self.settings.reserve_share
        leaves_room = self._untried() and kept_s * 1000 >= self.settings.reserve_min_ms
        attempt = Attempt(replica, now_s, self.deadline_s - (kept_s if leaves_room else 0.0))
        self.pending.append(attempt)
        return attempt


class Reads:
    """What the reads of one client share: the replicas, what is known of them, and the budgets."""

    def __init__(self, endpoints: Sequence[str], settings: ClientSettings) -> None:
        self.replicas = Replicas(endpoints)
        self.sendings = Sendings()
        self._settings = settings
        self._retries = RetryBudget(settings.retry_tokens_max, settings.retry_token_ratio)
        self._hedges = HedgeBudget(settings.hedge_share, settings.hedge_burst)
        self._hedge_delay = HedgeDelay(settings.hedge_after_ms)

    def read(self, method: str, deadline: Deadline, wanted: int = 0) -> Read:
        """A read to be begun. method: its answers are compared with others of the same one. wanted: the
        sequence that the answer must show."""
        return Read(
            method=method,
            budget_ms=deadline.budget_ms,
            deadline_s=deadline.monotonic_s,
            replicas=self.replicas,
            settings=self._settings,
            retries=self._retries,
            hedges=self._hedges,
            hedge_delay=self._hedge_delay,
            sendings=self.sendings,
            wanted=wanted,
        )
