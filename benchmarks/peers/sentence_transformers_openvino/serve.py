"""sentence-transformers' CrossEncoder on OpenVINO, behind a small gRPC server."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers import CrossEncoder

from benchmarks.peers.arguments import arguments
from benchmarks.peers.grpc_server import serve


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    model = CrossEncoder(
        str(settings.model),
        device="cpu",
        backend="openvino",
        activation_fn=torch.nn.Identity(),
        model_kwargs={
            "export": True,
            "ov_config": {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": str(settings.threads),
                "NUM_STREAMS": "1",
                "CACHE_DIR": "",
            },
        },
    )

    def score(query: str, texts: Sequence[str]) -> Sequence[float]:
        found = model.predict([(query, text) for text in texts], batch_size=64, show_progress_bar=False)
        scores: list[float] = found.tolist()
        return scores

    serve(score, settings)


if __name__ == "__main__":
    main()
