"""LitServe round the student in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import litserve

from benchmarks.peers.arguments import Arguments, arguments
from benchmarks.peers.scorer import OnnxScorer


class Reranker(litserve.LitAPI):
    """Scores one query's texts. A worker process of its own loads the model."""

    def __init__(self, settings: Arguments) -> None:
        super().__init__(api_path="/rerank")
        self._settings = settings

    def setup(self, device: str) -> None:
        """Load the model."""
        self._scorer = OnnxScorer(self._settings.model, threads=self._settings.threads)

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """{query, texts} to {scores}."""
        return {"scores": self._scorer.score(request["query"], request["texts"])}


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    server = litserve.LitServer(
        Reranker(settings),
        accelerator="cpu",
        workers_per_device=1,
        # What waited longer than its caller is dropped when a worker comes to it.
        timeout=settings.deadline_ms / 1000.0,
    )
    server.run(
        host="127.0.0.1",
        port=settings.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
