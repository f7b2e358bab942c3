"""The gRPC server: the front, what is behind it, and what it says before it is ready."""

from __future__ import annotations

import queue
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import rankcore
from muster.v1 import ranking_pb2, ranking_pb2_grpc
from server import errors
from server.admission import DEADLINE_KEY
from server.config import ConfigurationError, RpcSettings, load
from server.health import Health
from server.rpc import MethodTable, RpcServer
from tests.server.conftest import Pair
from tests.server.replica import Replica, command, run_refused, wait_until

APPLY = "/muster.v1.CatalogueService/Apply"
WATCH = "/muster.v1.CatalogueService/Watch"
SEARCH = "/muster.v1.RankingService/Search"


def made(listen: str = "127.0.0.1:0", settings: RpcSettings | None = None) -> RpcServer:
    given = {"listen": listen, "bundle": "bundle", "data_dir": "data"}
    allowed = {"tls": {"allow_plaintext": True}, "auth": {"mode": "off"}}
    return RpcServer(load(None, {**given, **allowed, "rpc": (settings or RpcSettings()).model_dump()}))


def test_a_port_in_use_is_refused() -> None:
    first = made()
    try:
        with pytest.raises(ConfigurationError, match="the address cannot be taken"):
            made(first.address)
    finally:
        first.stop(0)


@pytest.mark.parametrize("listen", ["192.0.2.1:1", "no-such-host.invalid:1"])
def test_an_address_that_is_not_ours_is_refused(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="the address cannot be taken"):
        made(listen)


def test_a_replica_on_a_port_in_use_ends_with_code_2(pair: Pair, bundle: Path, tmp_path: Path) -> None:
    code, error = run_refused([*command(bundle, tmp_path / "data"), "--listen", pair.primary.address])
    assert code == 2
    assert f"listen = '{pair.primary.address}': the address cannot be taken" in error


def test_a_method_that_is_not_there_yet_is_unavailable() -> None:
    server = made()
    server.start(Health())
    try:
        with grpc.insecure_channel(server.address) as channel:
            ranking = ranking_pb2_grpc.RankingServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                ranking.Search(ranking_pb2.SearchRequest(query="shoe"), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "this replica is still starting"
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(APPLY)(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "this replica is still starting"
            for unknown in ("/muster.v1.RankingService/Guess", "/other.Service/Search"):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(unknown)(b"", timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        server.stop(0)


def test_only_declared_methods_can_be_added() -> None:
    with pytest.raises(AssertionError):
        MethodTable().add({"/muster.v1.RankingService/Guess": object()})


def test_a_message_over_the_limit_is_refused_before_it_is_read(pair: Pair) -> None:
    for path in (SEARCH, APPLY):
        call = pair.primary.channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a" + b"x" * (9 * 2**20), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, path
    assert pair.primary.status().serving


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("path", [SEARCH, "/muster.v1.CatalogueService/Get"])
def test_compressed_requests_are_read(pair: Pair, compression: grpc.Compression, path: str) -> None:
    # Long enough that gRPC compresses it: both messages have their text in field 1.
    request = ranking_pb2.SearchRequest(query="red shoe" + " " * 900).SerializeToString()
    with grpc.insecure_channel(pair.primary.address, compression=compression) as channel:
        call = channel.unary_unary(path)
        if path == SEARCH:
            assert ranking_pb2.SearchResponse.FromString(call(request, timeout=5)).results
        else:
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=5)
            assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def test_pings_in_quick_succession_are_answered(pair: Pair) -> None:
    host, _, port = pair.primary.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        for number in range(200):
            connection.sendall(frame(6, 0, 0, struct.pack("!Q", number)))
        stream = connection.makefile("rb")
        answered = []
        while len(answered) < 200:
            kind, flags, payload = read_frame(stream)
            assert kind != 7, "the front said goodbye"
            if kind == 6 and flags & 1:
                answered.append(struct.unpack("!Q", payload)[0])
        assert answered == list(range(200))


@pytest.mark.parametrize(
    ("method", "content_type", "expected"),
    [("GET", "application/grpc", 405), ("POST", "text/plain", 415)],
)
def test_what_is_no_grpc_is_refused_by_http(
    pair: Pair, method: str, content_type: str, expected: int
) -> None:
    def literal(index: int, value: str) -> bytes:
        return bytes((index, len(value))) + value.encode()

    block = literal(0x02, method) + b"\x86" + literal(0x04, SEARCH) + literal(0x01, "a")
    block += b"\x0f\x10" + bytes((len(content_type),)) + content_type.encode()
    host, _, port = pair.primary.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack("!HI", 1, 0)))
        connection.sendall(frame(1, 0x5, 1, block))
        stream = connection.makefile("rb")
        while True:
            kind, _, payload = read_frame(stream)
            if kind == 1:
                break
    # A size update, then ":status" with a value of three digits, Huffman coded or not.
    assert huffman_or_plain(payload) == str(expected)


def huffman_or_plain(block: bytes) -> str:
    from drills.rig.wire import huffman_decoded

    at = 0
    while block[at] & 0xE0 == 0x20:
        at += 1
    length = block[at + 1] & 0x7F
    value = block[at + 2 : at + 2 + length]
    return (huffman_decoded(value) if block[at + 1] & 0x80 else value).decode()


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    length = len(payload)
    return struct.pack("!HBBBI", length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def read_frame(stream: Any) -> tuple[int, int, bytes]:
    head = stream.read(9)
    return head[3], head[4], stream.read(int.from_bytes(head[:3], "big"))


class Behind:
    """Stands for the services behind the front: says what it is told, and what reaches it."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.arrived: list[bytes] = []
        self.left = threading.Event()
        self.release = threading.Event()

    def apply(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.arrived.append(request)
        context.add_callback(self.left.set)
        if request == b"hang":
            self.release.wait(30)
        if request == b"refuse":
            context.set_trailing_metadata((("x-why", "because"), ("x-raw-bin", b"\x00\xff")))
            context.abort(grpc.StatusCode.ABORTED, "no: 100 %")
        return request * 2

    def watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.left.set)
        context.send_initial_metadata((("x-first", "1"),))
        for request in requests:
            yield request
            if request == b"much":
                for _ in range(64):
                    yield bytes(2**20)


@pytest.fixture
def behind() -> Iterator[tuple[RpcServer, Behind, grpc.Channel]]:
    services = Behind()
    server = made(settings=RpcSettings(threads=15, watch_streams_max=1, requests_in_flight_max=16))
    server.methods.add(
        {
            APPLY: grpc.unary_unary_rpc_method_handler(services.apply),
            WATCH: grpc.stream_stream_rpc_method_handler(services.watch),
        }
    )
    server.start(Health())
    with grpc.insecure_channel(server.address) as channel:
        yield server, services, channel
    services.release.set()
    server.stop(0)


Passed = tuple[RpcServer, Behind, grpc.Channel]


def test_a_call_passes_with_its_metadata_status_and_trailers(behind: Passed) -> None:
    _, services, channel = behind
    call = channel.unary_unary(APPLY)
    assert call(b"ab", timeout=5, metadata=(("x-mine", "y"),)) == b"abab"
    assert services.metadata["x-mine"] == "y"
    with pytest.raises(grpc.RpcError) as caught:
        call(b"refuse", timeout=5)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "no: 100 %")
    assert dict(caught.value.trailing_metadata()) == {"x-why": "because", "x-raw-bin": b"\x00\xff"}


def test_the_true_deadline_passes_and_clients_cannot_make_one_up(behind: Passed) -> None:
    _, services, channel = behind
    call = channel.unary_unary(APPLY)
    call(b"", metadata=((DEADLINE_KEY, "1"),))
    assert DEADLINE_KEY not in services.metadata
    near = (("muster-deadline-unix-us", str(time.time_ns() // 1000 + 700_000)),)
    call(b"", timeout=5, metadata=near)
    left_us = int(services.metadata[DEADLINE_KEY]) - time.monotonic_ns() // 1000
    assert 0 < left_us <= 700_000


def test_streams_pass_both_ways_as_they_come(behind: Passed) -> None:
    _, _, channel = behind
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = channel.stream_stream(WATCH)(iter(requests.get, None), timeout=30)
    assert ("x-first", "1") in call.initial_metadata()
    for word in (b"one", b"two"):
        requests.put(word)
        assert next(call) == word
    requests.put(b"much")
    assert next(call) == b"much"
    assert sum(len(next(call)) for _ in range(64)) == 64 * 2**20
    requests.put(None)
    assert next(call, None) is None
    assert call.code() is grpc.StatusCode.OK


def test_a_call_that_its_client_cancels_is_cancelled_behind_the_front(behind: Passed) -> None:
    _, services, channel = behind
    future = channel.unary_unary(APPLY).future(b"hang", timeout=30)
    wait_until(lambda: bool(services.metadata), "the call arrives", 10)
    assert not services.left.is_set()
    future.cancel()
    assert services.left.wait(10)


def test_a_client_that_vanishes_cancels_its_calls_behind_the_front(behind: Passed) -> None:
    server, services, _ = behind
    channel = grpc.insecure_channel(server.address)
    running = channel.unary_unary(APPLY).future(b"hang", timeout=30)
    wait_until(lambda: bool(services.metadata), "the call arrives", 10)
    channel.close()
    assert services.left.wait(10)
    assert running.done()


def test_calls_beyond_the_limit_are_refused(behind: Passed) -> None:
    _, services, channel = behind
    call = channel.unary_unary(APPLY)
    hanging = [call.future(b"hang", timeout=60) for _ in range(16)]
    wait_until(lambda: len(services.arrived) == 16, "all calls arrive", 30)
    for path in (APPLY, SEARCH):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "rpc.requests_in_flight_max" in caught.value.details()
    services.release.set()
    for future in hanging:
        assert future.result(timeout=30) == b"hanghang"
    assert call(b"x", timeout=30) == b"xx"


def test_a_client_beyond_the_limit_of_connections_finds_the_replica_unavailable() -> None:
    server = made(settings=RpcSettings(connections_max=1))
    server.start(Health())
    try:
        with grpc.insecure_channel(server.address) as first:
            grpc.channel_ready_future(first).result(timeout=30)
            # Channels of one process and target share a connection, unless they differ in an option.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(server.address, options=options) as second:
                with pytest.raises(grpc.RpcError) as caught:
                    second.unary_unary(SEARCH)(b"", timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "still starting" not in caught.value.details()
    finally:
        server.stop(0)


def test_a_drain_lets_running_calls_end_and_refuses_new_ones(behind: Passed) -> None:
    server, services, channel = behind
    running = channel.unary_unary(APPLY).future(b"hang", timeout=30)
    wait_until(lambda: bool(services.metadata), "the call arrives", 10)
    stopping = threading.Thread(target=server.stop, args=(20.0,))
    stopping.start()

    def refuses() -> bool:
        with grpc.insecure_channel(server.address) as fresh:
            try:
                fresh.unary_unary(APPLY)(b"", timeout=2)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    wait_until(refuses, "new calls are refused", 10)
    assert stopping.is_alive()
    services.release.set()
    assert running.result(timeout=10) == b"hanghang"
    stopping.join(timeout=10)
    assert not stopping.is_alive()


def test_a_drain_breaks_off_what_outlives_its_grace(behind: Passed) -> None:
    server, services, channel = behind
    running = channel.unary_unary(APPLY).future(b"hang", timeout=30)
    wait_until(lambda: bool(services.metadata), "the call arrives", 10)
    threading.Timer(0.5, services.release.set).start()
    server.stop(0.2)
    assert running.exception(timeout=10) is not None


def test_the_private_socket_has_no_name_that_another_process_could_use(behind: Passed) -> None:
    assert not [path for path in Path(tempfile.gettempdir()).glob("muster-*/rpc") if path.is_socket()]


def test_a_client_that_resets_hundreds_of_calls_keeps_its_connection(pair: Pair) -> None:
    request = ranking_pb2.SearchRequest(query="red shoe")
    for _ in range(5):
        futures = [pair.primary.ranking.Search.future(request, timeout=5) for _ in range(300)]
        for future in futures:
            future.cancel()
    assert pair.primary.ranking.Search(request, timeout=10).results


def test_the_front_tells_what_the_table_of_errors_says() -> None:
    rows = {row.error.__name__: row for row in errors.TABLE}
    told = rankcore.front_statuses()
    assert len(told) == 13
    for error, code, reason, meaning in told:
        row = rows[error]
        assert (code, reason) == (row.code.value[0], row.reason), error
        assert row.code is not grpc.StatusCode.INTERNAL or meaning == row.meaning.split(";")[0]


def test_failures_of_ranking_calls_are_logged_under_their_reference(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        """Stands for a front whose ranking core failed once."""

        def __init__(self) -> None:
            self.failures = [("failed", ["0123456789ab", "index 7 is torn", "order-7"])]

        def news(self, wait_s: float) -> tuple[str, list[str]] | None:
            assert wait_s > 0
            if self.failures:
                return self.failures.pop()
            stopped.set()
            return None

    server: Any = object.__new__(RpcServer)
    server.front = Failing()
    server._stopped = stopped = threading.Event()
    server._denied = lambda *told: None
    server._read_news()
    assert "request failed, reference 0123456789ab: index 7 is torn" in caplog.text
    assert caplog.records[-1].__dict__["request_id"] == "order-7"


@pytest.mark.parametrize("threads", [1, 3])
def test_connections_are_dealt_out_to_every_message_thread(
    bundle: Path, tmp_path: Path, threads: int
) -> None:
    settings = {"generation.rebuild": "false", "rpc.message_threads": threads}
    with Replica(bundle, tmp_path / "data", "a", settings) as replica:
        replica.wait_serving()
        task = Path(f"/proc/{replica.process.pid}/task")
        names = [(one / "comm").read_text().strip() for one in task.iterdir()]
        assert sum(name.startswith("front-") and name[6:].isdigit() for name in names) == threads
        for _ in range(2 * threads):
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(replica.address, options=options) as channel:
                ranking = ranking_pb2_grpc.RankingServiceStub(channel)
                ranking.Search(ranking_pb2.SearchRequest(query="shoe"), timeout=10)
