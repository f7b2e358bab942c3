"""The least that speaks HTTP/1.1 to a server under load: posts JSON over kept connections, one request on
each.

As light as `drills.rig.wire` is for gRPC, and for the same reason: generator and server share the machine.
Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

STATUSES = {
    200: "OK",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    503: "RESOURCE_EXHAUSTED",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(slots=True)
class HttpAnswer:
    """How a post ended. status: a gRPC status name, or "HTTP_" and the code. body: as sent."""

    status: str
    body: bytes = b""


def http_post(path: str, authority: str, body: bytes) -> bytes:
    """A whole request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class HttpConnection(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._future: asyncio.Future[HttpAnswer] | None = None
        self.alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.alive = True

    def connection_lost(self, error: Exception | None) -> None:
        """What was under way ends as UNAVAILABLE."""
        self.alive = False
        self._end(HttpAnswer("UNAVAILABLE"))

    def send(self, request: bytes) -> asyncio.Future[HttpAnswer]:
        """Sends one request; the future ends with its answer."""
        assert self._transport is not None and self._future is None
        self._buffer.clear()
        self._future = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._future

    def abort(self) -> None:
        """Gives up what is under way, and with it the connection."""
        self.alive = False
        self._future = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collects one answer."""
        self._buffer += data
        answer = parse(self._buffer)
        if answer is not None:
            if b"connection: close" in bytes(self._buffer[:2048]).lower():
                self.alive = False
            self._end(answer)

    def _end(self, answer: HttpAnswer) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(answer)


def parse(buffer: bytes | bytearray) -> HttpAnswer | None:
    """The answer in the buffer; None while it is not whole. Raises: ValueError on what is no HTTP."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    first, *lines = bytes(buffer[:head_end]).decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/"):
        raise ValueError(f"not an HTTP answer: {first[:60]!r}")
    status = STATUSES.get(int(parts[1]), f"HTTP_{parts[1]}")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    at = head_end + 4
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while True:
            line_end = buffer.find(b"\r\n", at)
            if line_end < 0:
                return None
            size = int(bytes(buffer[at:line_end]).split(b";")[0], 16)
            at = line_end + 2
            if len(buffer) < at + size + 2:
                return None
            if size == 0:
                return HttpAnswer(status, bytes(body))
            body += buffer[at : at + size]
            at += size + 2
    length = int(fields.get("content-length", "0"))
    if len(buffer) < at + length:
        return None
    return HttpAnswer(status, bytes(buffer[at : at + length]))


class HttpPool:
    """Connections to one server, opened as they are needed, the last used first."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._free: list[HttpConnection] = []
        self._all: set[HttpConnection] = set()

    async def open(self) -> None:
        """One connection. Raises OSError."""
        self._free.append(await self._connect())

    async def post(self, request: bytes, deadline_s: float) -> HttpAnswer:
        """Sends a whole request; ends at the latest at `deadline_s` of the event loop's clock."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline_s):
                connection = self._take() or await self._connect()
        except (OSError, TimeoutError):
            late = loop.time() >= deadline_s
            return HttpAnswer("DEADLINE_EXCEEDED" if late else "UNAVAILABLE")
        try:
            async with asyncio.timeout_at(deadline_s):
                answer = await connection.send(request)
        except TimeoutError:
            # As an HTTP client gives up: the connection goes, and a server that looks can see it.
            connection.abort()
            self._all.discard(connection)
            return HttpAnswer("DEADLINE_EXCEEDED")
        if connection.alive:
            self._free.append(connection)
        else:
            self._all.discard(connection)
        return answer

    def close(self) -> None:
        """Ends every connection."""
        for connection in self._all:
            connection.abort()
        self._all.clear()
        self._free.clear()

    def _take(self) -> HttpConnection | None:
        while self._free:
            connection = self._free.pop()
            if connection.alive:
                return connection
            self._all.discard(connection)
        return None

    async def _connect(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(HttpConnection, self._host, self._port)
        self._all.add(connection)
        return connection
