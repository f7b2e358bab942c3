"""``Recommend`` of ``muster.v1.RankingService``: puts what feedback has told into the request's history, and
has the ranking core answer it.

The other ranking calls never come here: the front answers them. This one needs the secrets of pseudonyms,
which stay in this room.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import grpc

import rankcore
from muster.privacy.pseudonyms import SESSION, SHOPPER
from muster.v1 import ranking_pb2 as pb
from server import health
from server.admission import Budget
from server.errors import BudgetSpent, RecommendationsFull, ReplicaNotReady
from server.feedback.histories import Histories
from server.metrics import Metrics
from server.services import parse, unary

PRIORITY_KEY = "muster-priority"
HISTORY_MAX = 1_000
"""Items of a request, by the contract."""
NAME_CHARACTERS_MAX = 256

# Left of a budget for the answer, once a sequence was waited for.
_REPLY_S = 0.005


class RecommendService:
    """Answers Recommend.

    engine: the serving one. names: a kind of name, the name and a time to the pseudonyms that it has then or
    had lately. receipt_id: names an answer given at a time. wait_applied, applied_sequence: as for the
    catalogue. at_once: calls answered at a time; one more is refused, for each holds a thread.
    """

    def __init__(
        self,
        *,
        engine: Callable[[], rankcore.Engine],
        histories: Histories,
        names: Callable[[str, str, float], list[str]],
        receipt_id: Callable[[float], str],
        wait_applied: Callable[[int, float], bool],
        applied_sequence: Callable[[], int],
        budget: Budget,
        at_once: int,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._histories = histories
        self._names = names
        self._receipt_id = receipt_id
        self._wait_applied = wait_applied
        self._applied_sequence = applied_sequence
        self._budget = budget
        self._clock_s = clock_s
        self._places = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._tiers: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def recommend(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Serialised response for a serialised request."""
        if not self._places.acquire(blocking=False):
            raise RecommendationsFull("as many recommendations as may be are being made here")
        try:
            return self._recommend(request, context)
        finally:
            self._places.release()

    def _recommend(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        message = parse(pb.RecommendRequest, request)
        remaining_us = self._budget.remaining_us(context)
        if remaining_us <= 0:
            raise BudgetSpent("the deadline had passed on arrival")
        if message.min_sequence:
            if not self._wait_applied(message.min_sequence, max(0.0, remaining_us / 1e6 - _REPLY_S)):
                wanted, applied = message.min_sequence, self._applied_sequence()
                raise ReplicaNotReady(f"sequence {wanted} has not been applied here; {applied} has")
            remaining_us = self._budget.remaining_us(context)
        now_s = self._clock_s()
        recorded = self._put_in(message, now_s)
        told = next((str(value) for key, value in context.invocation_metadata() if key == PRIORITY_KEY), None)
        answer, tier, reason = self._engine().recommend(
            message.SerializeToString(), remaining_us, now_unix_us=int(now_s * 1e6), priority=told
        )
        with self._lock:
            self._tiers[tier] += 1
            self._reasons[reason] += 1
        # A message that comes in two parts is one to its reader.
        ending = pb.RecommendResponse(
            receipt=pb.Receipt(receipt_id=self._receipt_id(now_s)),
            history=pb.HistoryAccount(recorded=recorded),
        )
        return answer + ending.SerializeToString()

    def _put_in(self, message: pb.RecommendRequest, now_s: float) -> int:
        """Put what is remembered before the request's own history; how many products it alone tells.

        A request that is over its limits is left as it is: the core says what is wrong with it.
        """
        names = [
            pseudonym
            for kind, name in ((SHOPPER, message.shopper_id), (SESSION, message.session_id))
            if name and len(name) <= NAME_CHARACTERS_MAX
            for pseudonym in self._names(kind, name, now_s)
        ]
        if not names or len(message.history) > HISTORY_MAX:
            return 0
        own = {item.product_id for item in message.history}
        remembered = [item for item in self._histories.of(names, now_s) if item.product_id not in own]
        remembered = remembered[max(0, len(remembered) + len(message.history) - HISTORY_MAX) :]
        history = [*remembered, *message.history]
        del message.history[:]
        message.history.extend(history)
        message.ClearField("shopper_id")
        message.ClearField("session_id")
        return len(remembered)

    def counters(self) -> dict[str, dict[str, int]]:
        """The counts by the names that `server.metrics` publishes."""
        with self._lock:
            return {
                "recommended_by_tier": dict(self._tiers),
                "recommended_by_reason": dict(self._reasons),
            }

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.RANKING
        return {f"/{service}/Recommend": unary(self.recommend, metrics.call("unary", service, "Recommend"))}
