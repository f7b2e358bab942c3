"""The least that speaks gRPC: one HTTP/2 connection for unary calls, made for floods.

grpcio spends half a millisecond of processor time on a call; on a small machine a flood of a thousand calls a
second would then take from the service it measures a quarter of all there is. This connection writes two
frames a call and reads the answer's, at a tenth of that. It has what a measurement needs (deadlines,
cancellation, statuses, TLS where asked for) and nothing else: no retries, no compression.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), the gRPC over HTTP/2 protocol description.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import grpc

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
CANCEL = 8
WINDOW = 1 << 30
REFILL = 1 << 24
_FRAME_HEAD = struct.Struct("!HBBBI")
_MESSAGE_HEAD = struct.Struct("!HBBBIBI")
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class WireError(ConnectionError):
    """The peer does not speak as expected, or has left."""


@dataclass(slots=True)
class Answer:
    """How a call ended. status: a gRPC status name. body: the message, empty unless OK."""

    status: str
    body: bytes = b""
    message: str = ""


Ended = Callable[[Answer], None]
"""Told once how a call ended, on the event loop; must not raise."""


@dataclass(slots=True)
class _Stream:
    ended: Ended
    parts: list[bytes] = field(default_factory=list)


def _text(value: bytes) -> bytes:
    """A string literal, not Huffman coded."""
    if len(value) < 127:
        return bytes((len(value),)) + value
    head, rest = bytearray(b"\x7f"), len(value) - 127
    while rest > 127:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(head) + bytes((rest,)) + value


def request_headers(method: str, authority: str) -> bytes:
    """The part of a request's header block that is the same for all calls of a method.

    Every field is a literal without indexing (or static), so that no call depends on an earlier one.
    """
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(method.encode()),  # :path
            b"\x01" + _text(authority.encode()),  # :authority
            b"\x00" + _text(b"te") + _text(b"trailers"),
            b"\x0f\x10" + _text(b"application/grpc"),  # content-type
        )
    )


def header(name: str, value: str) -> bytes:
    """One more field of a header block."""
    return b"\x00" + _text(name.encode()) + _text(value.encode())


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An HPACK integer with a prefix of `bits` bits; returns it and the position after it.

    Raises: ValueError above 63 bits, IndexError where the block ends inside it.
    """
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 56:
            raise ValueError("an integer of more than 63 bits")


_HUFFMAN_BY_LENGTH = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\",
}
"""RFC 7541, appendix B, as far as printable ASCII needs it: a canonical code, so symbols by the length of
their code are enough."""


def _huffman_symbols() -> dict[tuple[int, int], int]:
    symbols: dict[tuple[int, int], int] = {}
    code, last_length = -1, 5
    for length, of_length in _HUFFMAN_BY_LENGTH.items():
        code = (code + 1 << length - last_length) - 1
        last_length = length
        for symbol in of_length:
            code += 1
            symbols[length, code] = symbol
    return symbols


_HUFFMAN = _huffman_symbols()
_HUFFMAN_BITS_MAX = max(_HUFFMAN_BY_LENGTH)


def huffman_decoded(coded: bytes) -> bytes:
    """The text of a Huffman-coded literal, printable ASCII; what cannot be read ends it."""
    text = bytearray()
    length = code = 0
    for byte in coded:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _HUFFMAN.get((length, code))
            if symbol is not None:
                text.append(symbol)
                length = code = 0
            elif length > _HUFFMAN_BITS_MAX:
                return bytes(text)
    return bytes(text)


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    return (huffman_decoded(raw) if coded else raw), at + length


# Most calls end with one of very few blocks.
@lru_cache(maxsize=1024)
def grpc_status(block: bytes) -> tuple[int | None, str]:
    """The grpc-status and grpc-message of a header block; None where it has no status.

    The connection tells its peer to keep no dynamic table, so nothing in a block refers to another. Raises:
    IndexError on a block that ends early, ValueError on a number that is none.
    """
    status: int | None = None
    message = ""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # indexed: static fields, never a gRPC one
            _, at = _integer(block, at, 7)
            continue
        if first & 0xE0 == 0x20:  # the peer confirms the size of its table
            _, at = _integer(block, at, 5)
            continue
        index, at = _integer(block, at, 6 if first & 0x40 else 4)
        name = b""
        if index == 0:
            name, at = _string(block, at)
        value, at = _string(block, at)
        if name == b"grpc-status":
            status = int(value)
        elif name == b"grpc-message":
            message = value.decode("utf-8", "replace")
    return status, message


class Connection(asyncio.Protocol):
    """One connection. Make it with `connect`; use it from its event loop only."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._outgoing: list[bytes] = []
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._send_window = 65_535
        self._received = 0
        self._held: deque[bytes] = deque()
        self._expiry: deque[tuple[float, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._fragment: tuple[int, int, bytearray] | None = None
        self._ready = asyncio.get_running_loop().create_future()
        self._gone = False

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        timeout_s: float = 10.0,
        over: socket.socket | None = None,
        source: str = "",
        security: ssl.SSLContext | None = None,
        server_name: str = "",
    ) -> Connection:
        """Connects to "host:port" and waits for the peer's settings. Raises OSError, TimeoutError.

        over: a socket that is connected already, to be used instead. source: the address to call from; empty:
        the system's choice. security: encrypt, as it says; the peer's certificate must be that of
        server_name.
        """
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        if over is None:
            connecting = loop.create_connection(
                cls,
                host,
                int(port),
                local_addr=(source, 0) if source else None,
                ssl=security,
                server_hostname=server_name if security is not None else None,
            )
        else:
            connecting = loop.create_connection(cls, sock=over)
        _, connection = await asyncio.wait_for(connecting, timeout_s)
        try:
            await asyncio.wait_for(asyncio.shield(connection._ready), timeout_s)
        except BaseException:
            # Nobody else knows of it, so nobody else would close it.
            connection._ready.cancel()
            connection.close()
            raise
        return connection

    def call(self, headers: bytes, message: bytes, deadline_s: float) -> asyncio.Future[Answer]:
        """Sends one call, see `send`; the future ends with its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self.send(headers, message, deadline_s, ended)
        return future

    def send(self, headers: bytes, message: bytes, deadline_s: float, ended: Ended) -> None:
        """Sends one call; `ended` is told its answer, at the latest at `deadline_s` (monotonic seconds).

        headers: a whole header block. What is sent in one turn of the event loop leaves together. Raises:
        WireError once the connection is lost.
        """
        if self._gone or self._transport is None:
            raise WireError("the connection is lost")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._streams[stream_id] = _Stream(ended)
        length = len(message) + 5
        frames = b"".join(
            (
                _frame(HEADERS, END_HEADERS, stream_id, headers),
                _MESSAGE_HEAD.pack(length >> 8, length & 0xFF, DATA, END_STREAM, stream_id, 0, len(message)),
                message,
            )
        )
        if self._held or length > self._send_window:
            self._held.append(frames)
        else:
            self._send_window -= length
            self._write(frames)
        self._expiry.append((deadline_s, stream_id))
        if self._timer is None:
            self._arm(deadline_s)

    @property
    def certificate(self) -> bytes:
        """The one that the peer has shown, DER; empty where nothing is encrypted."""
        secured = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return b"" if secured is None else secured.getpeercert(binary_form=True) or b""

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent on it any more."""
        return self._gone

    def close(self) -> None:
        """Ends the connection and every call on it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the preface: no push, no dynamic table, windows wide enough never to matter."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack("!HIHIHI", 1, 0, 2, 0, 4, WINDOW)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, settings)
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", WINDOW))
        )

    def data_received(self, data: bytes) -> None:
        """Takes whole frames out of what has come so far; hangs up on a peer that does not speak HTTP/2."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            high, low, kind, flags, stream_id = _FRAME_HEAD.unpack_from(buffer, at)
            after = at + 9 + (high << 8 | low)
            if after > end:
                break
            try:
                self._frame_received(kind, flags, stream_id & 0x7FFFFFFF, buffer[at + 9 : after])
            except (IndexError, ValueError):
                self._gone = True
                if self._transport is not None:
                    self._transport.close()
                break
            at = after
        self._rest = buffer[at:]

    def connection_lost(self, error: Exception | None) -> None:
        """Every call under way ends as UNAVAILABLE."""
        self._gone = True
        if not self._ready.done():
            self._ready.set_exception(WireError("the peer left before its settings came"))
        for stream_id in list(self._streams):
            self._end(stream_id, Answer("UNAVAILABLE", message="the connection was lost"))

    # -- frames ----------------------------------------------------------

    def _frame_received(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == DATA:
            self._data(flags, stream_id, payload)
        elif kind == HEADERS:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & PRIORITY:
                payload = payload[5:]
            self._headers(flags, stream_id, payload)
        elif kind == CONTINUATION and self._fragment is not None:
            of_stream, first_flags, block = self._fragment
            block += payload
            if flags & END_HEADERS:
                self._fragment = None
                self._headers(first_flags | END_HEADERS, of_stream, bytes(block))
        elif kind == SETTINGS and not flags & ACK:
            assert self._transport is not None
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
            if not self._ready.done():
                self._ready.set_result(None)
        elif kind == PING and not flags & ACK:
            assert self._transport is not None
            self._transport.write(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream_id == 0:
            self._send_window += int.from_bytes(payload, "big") & 0x7FFFFFFF
            self._send_held()
        elif kind == RST_STREAM:
            code = int.from_bytes(payload, "big")
            name = "CANCELLED" if code == CANCEL else "UNAVAILABLE"
            self._end(stream_id, Answer(name, message=f"the stream was reset with code {code}"))
        elif kind == GOAWAY:
            self._gone = True

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= REFILL:
            assert self._transport is not None
            self._transport.write(_frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", self._received)))
            self._received = 0
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        stream.parts.append(payload)
        if flags & END_STREAM:
            self._end(stream_id, Answer("INTERNAL", message="the answer ended without a status"))

    def _headers(self, flags: int, stream_id: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._fragment = (stream_id, flags, bytearray(block))
            return
        stream = self._streams.get(stream_id)
        if stream is None or not flags & END_STREAM:
            return
        status, message = grpc_status(block)
        name = STATUS_NAMES.get(2 if status is None else status, "UNKNOWN")
        # A message is preceded by one byte (compressed or not) and its length.
        self._end(stream_id, Answer(name, b"".join(stream.parts)[5:] if name == "OK" else b"", message))

    def _end(self, stream_id: int, answer: Answer) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.ended(answer)

    def _write(self, frames: bytes) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(frames)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _send_held(self) -> None:
        while self._held:
            frames = self._held[0]
            # Only the message counts, not the headers; counting both is on the safe side.
            if len(frames) > self._send_window:
                return
            self._send_window -= len(frames)
            self._write(self._held.popleft())

    def _arm(self, deadline_s: float) -> None:
        # asyncio's clock is the monotonic one.
        self._timer = asyncio.get_running_loop().call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """Ends the calls whose deadline has passed, in the order in which they were sent."""
        self._timer = None
        now_s = time.monotonic()
        while self._expiry:
            deadline_s, stream_id = self._expiry[0]
            if stream_id in self._streams:
                if deadline_s > now_s:
                    self._arm(deadline_s)
                    return
                if not self._gone:
                    self._write(_frame(RST_STREAM, 0, stream_id, struct.pack("!I", CANCEL)))
                self._end(stream_id, Answer("DEADLINE_EXCEEDED", message="no answer within the deadline"))
            self._expiry.popleft()


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload
