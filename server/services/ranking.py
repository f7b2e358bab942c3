"""``muster.v1.RankingService``: hands the bytes of a request to the ranking core and returns its bytes.

Nothing is parsed here. The handler's thread waits inside the core without the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import grpc

import rankcore
from server import health
from server.admission import Budget, told_priority
from server.errors import BudgetSpent, CallerLeft
from server.metrics import Metrics
from server.services import unary

_Rank = Callable[[bytes, int, rankcore.Cancel, str | None], bytes]


class Ranker(Protocol):
    """The part of ``rankcore.Engine`` that answers."""

    def search(
        self,
        request: bytes,
        remaining_us: int,
        cancel: rankcore.Cancel | None = None,
        priority: str | None = None,
    ) -> bytes:
        """SearchRequest -> SearchResponse. priority: the class that the call's metadata name."""

    def rerank(
        self,
        request: bytes,
        remaining_us: int,
        cancel: rankcore.Cancel | None = None,
        priority: str | None = None,
    ) -> bytes:
        """RerankRequest -> RerankResponse. priority: as for a search."""


class RankingService:
    """Answers Search and Rerank."""

    def __init__(self, ranker: Ranker, budget: Budget) -> None:
        self._ranker = ranker
        self._budget = budget

    def search(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Rank the catalogue for a query."""
        return self._answer(self._ranker.search, request, context)

    def rerank(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Rank the caller's candidates."""
        return self._answer(self._ranker.rerank, request, context)

    def methods(self, metrics: Metrics) -> Mapping[str, grpc.RpcMethodHandler]:
        """Handlers by the path of their method."""
        service = health.RANKING
        return {
            f"/{service}/Search": unary(self.search, metrics.call("unary", service, "Search")),
            f"/{service}/Rerank": unary(self.rerank, metrics.call("unary", service, "Rerank")),
        }

    def _answer(self, rank: _Rank, request: bytes, context: grpc.ServicerContext) -> bytes:
        remaining_us = self._budget.remaining_us(context)
        if remaining_us <= 0:
            raise BudgetSpent("the deadline had passed on arrival")
        cancel = rankcore.Cancel()
        # Runs when the call ends in whatever way; by then a finished request no longer minds.
        if not context.add_callback(cancel.cancel):
            raise CallerLeft("the caller has left")
        return rank(request, remaining_us, cancel, told_priority(context))
