"""A peer that scores a text by its length, over either protocol: `python -m tests.benchmarks.fake_peer`.

It takes what every peer takes, and `--protocol grpc | json`, `--work-ms`, and `--child`, which leaves a
process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.peers.arguments import arguments
from benchmarks.peers.grpc_server import serve


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", choices=["grpc", "json"], required=True)
    parser.add_argument("--work-ms", type=float, default=1.0)
    parser.add_argument("--child", action="store_true")
    own, rest = parser.parse_known_args()
    settings = arguments(rest)
    if own.child:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def score(query: str, texts: Sequence[str]) -> list[float]:
        time.sleep(own.work_ms / 1000.0)
        return [float(len(text)) for text in texts]

    if own.protocol == "grpc":
        serve(score, settings)
        return
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with turn:
                body = json.dumps({"scores": score(asked["query"], asked["texts"])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", settings.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
