from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.rig.wire import (
    Answer,
    Connection,
    WireError,
    grpc_status,
    header,
    huffman_decoded,
    request_headers,
)

METHOD = "/muster.v1.RankingService/Search"


def behave(request: bytes, context: Any) -> bytes:
    """What the request asks for."""
    word = request.decode()
    if word == "large":
        return bytes(3_000_000)
    if word == "refuse":
        context.set_trailing_metadata((("x-long", "y" * 20_000),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy: 100%")
    if word == "slow":
        time.sleep(0.5)
    if word == "metadata":
        found = dict(context.invocation_metadata())
        return f"{found['muster-deadline-unix-us']} {context.time_remaining():.3f}".encode()
    return request.upper()


class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(behave) if details.method == METHOD else None


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


Ask = Callable[..., list[Answer]]


@pytest.fixture
def ask(address: str) -> Ask:
    """Sends messages over one connection, all at once; the answers in their order."""

    def run(
        *messages: bytes, method: str = METHOD, budget_s: float = 10.0, more: bytes = b""
    ) -> list[Answer]:
        async def body() -> list[Answer]:
            connection = await Connection.connect(address)
            headers = (
                request_headers(method, address) + header("grpc-timeout", f"{int(budget_s * 1e6)}u") + more
            )
            deadline_s = time.monotonic() + budget_s
            try:
                return await asyncio.gather(*(connection.call(headers, m, deadline_s) for m in messages))
            finally:
                connection.close()

        return asyncio.run(body())

    return run


def test_many_calls_share_a_connection_and_each_gets_its_own_answer(ask: Ask) -> None:
    messages = [f"call {number}".encode() for number in range(500)]
    assert ask(*messages) == [Answer("OK", message.upper()) for message in messages]


def test_an_answer_may_be_larger_than_a_frame_and_a_window(ask: Ask) -> None:
    answers = ask(*[b"large"] * 10)
    assert [(answer.status, len(answer.body)) for answer in answers] == [("OK", 3_000_000)] * 10


def test_requests_wait_for_the_window_of_the_peer(ask: Ask) -> None:
    messages = [b"a" * 60_000] * 20
    assert ask(*messages) == [Answer("OK", b"A" * 60_000)] * 20


def test_a_refusal_keeps_its_status_and_message_whatever_else_comes_along(ask: Ask) -> None:
    (answer,) = ask(b"refuse")
    assert (answer.status, answer.body) == ("RESOURCE_EXHAUSTED", b"")
    assert answer.message.startswith("too busy: 100")


def test_an_unknown_method_is_unimplemented(ask: Ask) -> None:
    assert ask(b"x", method="/muster.v1.RankingService/Nothing")[0].status == "UNIMPLEMENTED"


def test_a_call_without_an_answer_ends_at_its_deadline_and_the_connection_goes_on(ask: Ask) -> None:
    slow, quick = ask(b"slow", b"quick", budget_s=0.2)
    assert slow.status == "DEADLINE_EXCEEDED"
    assert quick == Answer("OK", b"QUICK")


def test_the_server_sees_the_deadline_and_the_metadata(ask: Ask) -> None:
    (answer,) = ask(b"metadata", budget_s=5.0, more=header("muster-deadline-unix-us", "12345"))
    absolute, left_s = answer.body.decode().split()
    assert absolute == "12345"
    assert 3.0 < float(left_s) <= 5.0


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        # RFC 7541, appendix C.4 and C.6.
        ("f1e3c2e5f23a6ba0ab90f4ff", b"www.example.com"),
        ("a8eb10649cbf", b"no-cache"),
        ("25a849e95ba97d7f", b"custom-key"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        ("", b""),
    ],
)
def test_huffman_coded_literals_are_read(coded: str, text: bytes) -> None:
    assert huffman_decoded(bytes.fromhex(coded)) == text


def test_a_huffman_coded_status_is_read() -> None:
    name = bytes.fromhex("9acac8b21234da8f")
    message = bytes.fromhex("3f72d941c72164b8a5854d9e941ca92d8a3aa528")
    message_name = b"grpc-message"
    block = b"\x00" + bytes((0x80 | len(name),)) + name + b"\x018"
    block += b"\x00" + bytes((len(message_name),)) + message_name + bytes((0x80 | len(message),)) + message
    assert grpc_status(block) == (8, "overloaded: retry after 7 ms")


def test_a_peer_that_leaves_ends_its_calls_as_unavailable() -> None:
    async def body() -> tuple[str, bool]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\0\0\0\4\0\0\0\0\0")  # empty settings
            await reader.read(200)
            await asyncio.sleep(0.1)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = await Connection.connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        answer = await connection.call(b"", b"x", time.monotonic() + 10)
        try:
            connection.call(b"", b"x", time.monotonic() + 10)
        except WireError:
            return answer.status, True
        finally:
            server.close()
        return answer.status, False

    assert asyncio.run(body()) == ("UNAVAILABLE", True)


def test_nobody_there_is_an_error_of_the_operating_system() -> None:
    with pytest.raises(OSError):
        asyncio.run(Connection.connect("127.0.0.1:1"))


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"", None),
        (b"\x88", None),  # :status 200
        (b"\x20\x40\x0bgrpc-status\x010", 0),  # a table of size 0, then a literal with indexing
        (b"\x00\x0bgrpc-status\x0214", 14),
        (b"\x10\x0bgrpc-status\x018", 8),  # never indexed
        (b"\x00\x82ab\x01x\x00\x0bgrpc-status\x015", 5),  # a Huffman coded name is skipped
        (b"\x00\x01x\x7f\x0c" + b"v" * 139 + b"\x00\x0bgrpc-status\x017", 7),  # a length of two bytes
    ],
)
def test_the_status_is_found_in_any_header_block(block: bytes, status: int | None) -> None:
    assert grpc_status(block)[0] == status


@given(block=st.binary(max_size=200))
def test_any_header_block_has_a_status_or_is_refused(block: bytes) -> None:
    try:
        status, message = grpc_status(block)
    except (IndexError, ValueError):
        return
    assert status is None or isinstance(status, int)
    assert isinstance(message, str)


def test_a_header_number_without_end_is_refused_at_its_64th_bit() -> None:
    with pytest.raises(ValueError, match="63 bits"):
        grpc_status(b"\x0f" + b"\xff" * 100_000)


class Silent(asyncio.Transport):
    """Takes what is written, and notes that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        self.closed = True


FRAMES = st.builds(
    lambda kind, flags, stream, payload: (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    ),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 3, 0x80000001]),
    st.binary(max_size=40),
)


@given(received=st.lists(FRAMES | st.binary(max_size=30), max_size=8), cut=st.integers(0, 400))
def test_whatever_a_peer_sends_calls_end_and_the_connection_is_open_or_hung_up(
    received: list[bytes], cut: int
) -> None:
    async def body() -> None:
        connection, transport = Connection(), Silent()
        connection.connection_made(transport)
        call = connection.call(request_headers(METHOD, "x"), b"hello", time.monotonic() + 60.0)
        stream = b"".join(received)
        connection.data_received(stream[:cut])
        connection.data_received(stream[cut:])
        connection.connection_lost(None)
        assert (await asyncio.wait_for(call, 5.0)).status
        connection._ready.cancelled() or connection._ready.exception()
        connection.close()

    asyncio.run(body())


def test_a_connection_that_gets_no_answer_is_closed_again() -> None:
    async def connect_to_silence() -> tuple[bool, bytes]:
        closed = asyncio.Event()
        received = bytearray()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1024):
                received.extend(data)
            closed.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        with pytest.raises(TimeoutError):
            await Connection.connect(f"{host}:{port}", timeout_s=0.2)
        await asyncio.wait_for(closed.wait(), 10.0)
        server.close()
        return closed.is_set(), bytes(received)

    closed, received = asyncio.run(connect_to_silence())
    assert closed
    assert received.startswith(b"PRI * HTTP/2.0")


@given(st.binary(max_size=70_000))
def test_a_header_of_any_length_is_read_back(value: bytes) -> None:
    text = value.hex()
    block = header("grpc-message", text)
    assert grpc_status(b"\x00\x0bgrpc-status\x010" + block) == (0, text)
