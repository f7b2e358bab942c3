"""The service that `bentoml serve` loads."""

from __future__ import annotations

import os

import bentoml

from benchmarks.peers.arguments import arguments
from benchmarks.peers.bentoml.serve import SETTINGS
from benchmarks.peers.scorer import OnnxScorer

_settings = arguments(os.environ[SETTINGS].split("\n"))


@bentoml.service(
    workers=1,
    threads=1,
    # Beyond so many a caller is refused at once.
    traffic={
        "max_concurrency": _settings.in_flight_max,
        "timeout": max(1, round(_settings.deadline_ms / 1000)),
    },
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Reranker:
    """Scores one query's texts."""

    def __init__(self) -> None:
        self._scorer = OnnxScorer(_settings.model, threads=_settings.threads)

    @bentoml.api(route="/rerank")
    def rerank(self, query: str, texts: list[str]) -> dict[str, list[float]]:
        """{query, texts} to {scores}."""
        return {"scores": self._scorer.score(query, texts)}
