"""``Recommend`` of ``muster.v1.RankingService``, answered by the ranking core.

The other ranking calls never come here: the front answers them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import grpc

import rankcore
from muster.v1 import ranking_pb2 as pb
from server import health
from server.admission import Budget
from server.errors import BudgetSpent, RecommendationsFull, ReplicaNotReady
from server.feedback.histories import Histories
from server.metrics import Metrics
from server.services import parse, unary

PRIORITY_KEY = "muster-priority"

# Left of a budget for the answer, once a sequence was waited for.
_REPLY_S = 0.005


class RecommendService:
    """Answers Recommend.

    engine: the serving one. histories: what feedback has told. receipt_id: names an answer given at a time. wait_applied, applied_sequence: as for the
    catalogue. at_once: calls answered at a time; one more is refused, for each holds a thread.
    """

    def __init__(
        self,
        *,
        engine: Callable[[], rankcore.Engine],
        histories: Histories,
        receipt_id: Callable[[float], str],
        wait_applied: Callable[[int, float], bool],
        applied_sequence: Callable[[], int],
        budget: Budget,
        at_once: int,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._histories = histories
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
        told = next((str(value) for key, value in context.invocation_metadata() if key == PRIORITY_KEY), None)
        answer, tier, reason = self._engine().recommend(
            request,
            remaining_us,
            now_unix_us=int(now_s * 1e6),
            priority=told,
            shoppers=self._histories.core,
        )
        with self._lock:
            self._tiers[tier] += 1
            self._reasons[reason] += 1
        # A message that comes in two parts is one to its reader.
        ending = pb.RecommendResponse(receipt=pb.Receipt(receipt_id=self._receipt_id(now_s)))
        return answer + ending.SerializeToString()

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
