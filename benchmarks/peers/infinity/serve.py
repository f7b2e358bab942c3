"""infinity-emb, its own server, with its torch engine."""

from __future__ import annotations

import os
import sys

from benchmarks.peers.arguments import arguments

PAIRS = 50
"""Candidates of a request; infinity's queue counts pairs."""


def main() -> None:
    """Become `infinity_emb v2`."""
    settings = arguments()
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    # Beyond so many pairs a caller is refused at once.
    os.environ["INFINITY_QUEUE_SIZE"] = str(PAIRS * settings.in_flight_max)
    command = [
        sys.executable,
        "-m",
        "infinity_emb.cli",
        "v2",
        "--model-id",
        str(settings.model),
        "--engine",
        "torch",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--batch-size",
        "64",
        "--no-model-warmup",
        "--no-bettertransformer",
        "--host",
        "127.0.0.1",
        "--port",
        str(settings.port),
        "--log-level",
        "warning",
    ]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
