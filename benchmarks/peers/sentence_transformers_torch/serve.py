"""sentence-transformers' CrossEncoder on torch, behind a small gRPC server."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers import CrossEncoder

from benchmarks.peers.arguments import arguments
from benchmarks.peers.grpc_server import serve


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    torch.set_num_threads(settings.threads)
    model = CrossEncoder(str(settings.model), device="cpu", activation_fn=torch.nn.Identity())

    def score(query: str, texts: Sequence[str]) -> Sequence[float]:
        # 64 pairs a batch: predict() sorts by length, and 50 candidates are one call.
        found = model.predict([(query, text) for text in texts], batch_size=64, show_progress_bar=False)
        scores: list[float] = found.tolist()
        return scores

    serve(score, settings)


if __name__ == "__main__":
    main()
