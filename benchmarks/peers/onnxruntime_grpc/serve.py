"""ONNX Runtime and tokenizers behind gRPC, with nothing in between."""

from __future__ import annotations

from benchmarks.peers.arguments import arguments
from benchmarks.peers.grpc_server import serve
from benchmarks.peers.scorer import OnnxScorer


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    serve(OnnxScorer(settings.model, threads=settings.threads).score, settings)


if __name__ == "__main__":
    main()
