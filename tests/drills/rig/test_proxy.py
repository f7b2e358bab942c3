"""The drill's own proxy, against an echoing server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.rig.proxy import BACK, TO, Proxy

LONG_S = 30.0
SHORT_S = 0.2
"""What does not come within this is taken for held; it comes in milliseconds where it is not."""


@pytest.fixture
def echo() -> Iterator[str]:
    """Sends back whatever it receives, on as many connections as there are."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    host, port = listener.getsockname()
    yield f"{host}:{port}"
    # Wakes the accept, which a mere close would not.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece, "the connection ended"
        data += piece
    return data


def silent(connection: socket.socket) -> bool:
    connection.settimeout(SHORT_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(LONG_S)
    return False


def test_bytes_pass_both_ways_and_so_does_the_end(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    with connect(link.address) as one:
        sent = bytes(range(256)) * 4096
        threading.Thread(target=one.sendall, args=(sent,)).start()
        assert receive(one, len(sent)) == sent
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""


@pytest.mark.parametrize("direction", [TO, BACK])
def test_what_is_cut_off_is_held_and_passes_after_the_healing(
    proxy: Proxy, echo: str, direction: str
) -> None:
    link = proxy.link("a", echo)
    with connect(link.address) as one:
        one.sendall(b"before")
        assert receive(one, 6) == b"before"
        link.cut(direction)
        one.sendall(b"during")
        assert silent(one)
        link.heal()
        assert receive(one, 6) == b"during"


def test_a_connection_made_behind_a_cut_comes_through_afterwards(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    link.cut()
    with connect(link.address) as one:
        one.sendall(b"new")
        assert silent(one)
        link.heal()
        assert receive(one, 3) == b"new"


def test_the_end_of_a_connection_does_not_pass_a_cut(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        link = proxy.link("a", f"{host}:{port}")
        near = connect(link.address)
        near.sendall(b"x")
        far, _ = listener.accept()
        with far:
            assert receive(far, 1) == b"x"
            link.cut()
            near.close()
            assert silent(far)
            link.heal()
            far.settimeout(LONG_S)
            assert far.recv(1) == b""


def test_only_the_link_that_is_cut_is_silent(proxy: Proxy, echo: str) -> None:
    cut, other = proxy.link("a", echo), proxy.link("b", echo)
    with connect(other.address) as one:
        cut.cut()
        one.sendall(b"on")
        assert receive(one, 2) == b"on"


def test_a_slow_link_takes_at_least_its_latency(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    with connect(link.address) as one:
        one.sendall(b"x")
        receive(one, 1)
        link.slow(latency_ms=60.0, jitter_ms=10.0)
        began_s = time.monotonic()
        one.sendall(b"y")
        assert receive(one, 1) == b"y"
        # Both directions; never early, however busy the machine.
        assert time.monotonic() - began_s >= 0.12


def test_jitter_does_not_change_the_order(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    link.slow(jitter_ms=20.0)
    with connect(link.address) as one:
        sent = bytes(range(200))
        for value in sent:
            one.sendall(bytes([value]))
        assert receive(one, len(sent)) == sent


def test_a_narrow_link_takes_as_long_as_its_width_says(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    link.slow(bytes_per_s=200_000.0, directions=(TO,))
    with connect(link.address) as one:
        began_s = time.monotonic()
        one.sendall(b"x" * 40_000)
        receive(one, 40_000)
        assert time.monotonic() - began_s >= 0.2


def test_a_reset_breaks_connections_and_refuses_new_ones_until_healed(proxy: Proxy, echo: str) -> None:
    link = proxy.link("a", echo)
    with connect(link.address) as one:
        one.sendall(b"x")
        receive(one, 1)
        assert link.reset(refusing=True) == 2
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    with pytest.raises(ConnectionResetError), connect(link.address) as refused:
        refused.recv(1)
    link.heal()
    with connect(link.address) as again:
        again.sendall(b"x")
        assert receive(again, 1) == b"x"


def test_where_nobody_listens_the_connection_is_reset(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    link = proxy.link("a", f"{host}:{port}")
    with pytest.raises(ConnectionResetError), connect(link.address) as one:
        one.recv(1)


def test_a_link_may_lead_to_a_socket_in_the_file_system(proxy: Proxy, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with connect(proxy.link("a", path).address) as one:
            one.sendall(b"hello")
            far, _ = listener.accept()
            with far:
                assert receive(far, 5) == b"hello"


def test_it_ends_with_its_context_and_says_what_it_cannot_do(echo: str) -> None:
    with Proxy() as proxy:
        proxy.link("a", echo)
        with pytest.raises(Inconclusive, match="cannot cut b"):
            proxy.tell("cut", "b", directions=[TO])
        process = proxy._process
        assert process is not None
    assert process.poll() == 0
    with pytest.raises(Inconclusive, match="does not answer"):
        proxy.tell("heal", "a")


def test_it_ends_without_a_word_while_connections_stand_and_are_held(
    echo: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Proxy() as proxy:
        link, cut = proxy.link("a", echo), proxy.link("b", echo)
        open_one = connect(link.address)
        open_one.sendall(b"x")
        receive(open_one, 1)
        cut.cut()
        held = connect(cut.address)
        held.sendall(b"y")
        assert silent(held)
    open_one.close()
    held.close()
    assert capfd.readouterr().err == ""
