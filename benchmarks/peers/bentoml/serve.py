"""BentoML round the student in ONNX Runtime."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers.arguments import arguments

SETTINGS = "PEER_SETTINGS"


def main() -> None:
    """Become `bentoml serve`, which starts a worker process of its own."""
    settings = arguments()
    os.environ[SETTINGS] = "\n".join(sys.argv[1:])
    # One environment holds interpreter, framework and this service.
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "benchmarks.peers.bentoml.service:Reranker",
        "--host",
        "127.0.0.1",
        "--port",
        str(settings.port),
        "--working-dir",
        str(Path.cwd()),
    ]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
