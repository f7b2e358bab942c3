"""What a replica of Ray Serve runs. A module of its own, so that it is imported there rather than copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.messages import RerankRequest, RerankResponse
from benchmarks.peers.scorer import OnnxScorer


class Reranker:
    """Scores one query's texts."""

    def __init__(self, model: str, threads: int) -> None:
        self._scorer = OnnxScorer(Path(model), threads=threads)

    def Rerank(self, request: Any) -> Any:  # noqa: N802 (the proxy calls the method by its name on the wire)
        """RerankRequest to RerankResponse."""
        asked = RerankRequest.FromString(request) if isinstance(request, bytes) else request
        return RerankResponse(scores=self._scorer.score(asked.query, list(asked.texts)))
