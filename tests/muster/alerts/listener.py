"""Both ends of a watch, real ones on the loopback: a metrics endpoint, and a webhook that keeps its mail."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Listener:
    """Answers each POST with the next of ``statuses``, then with 200. A context manager."""

    def __init__(self, statuses: tuple[int, ...] = ()) -> None:
        self.told: list[dict[str, Any]] = []
        self.came = threading.Condition()
        left = list(statuses)
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = left.pop(0) if left else 200
                if status == 200:
                    with listener.came:
                        listener.told.append(json.loads(body))
                        listener.came.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def alerts(self) -> list[tuple[str, str]]:
        """Name and status of every alert that was told, in order."""
        return [
            (alert["labels"]["alertname"], alert["status"]) for told in self.told for alert in told["alerts"]
        ]

    def wait_for(self, name: str, status: str, timeout_s: float) -> bool:
        """Whether that alert was told with that status in time."""
        with self.came:
            return self.came.wait_for(lambda: (name, status) in self.alerts(), timeout_s)


class Endpoint:
    """A metrics endpoint that says what it is told to. A context manager."""

    def __init__(self, page: str = "muster_primary 1\n") -> None:
        self.page = page
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                body = endpoint.page.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
