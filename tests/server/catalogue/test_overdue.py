from __future__ import annotations

import socket
import threading
import time

from server.catalogue.overdue import Overdue

LONG_S = 30.0


def test_a_late_call_ends_and_one_in_time_does_not() -> None:
    overdue = Overdue()
    late, far_late = socket.socketpair()
    calm, far_calm = socket.socketpair()
    late.settimeout(LONG_S)
    with overdue.limit(calm.fileno(), LONG_S), overdue.limit(late.fileno(), 0.01):
        assert late.recv(1) == b""
        far_calm.send(b"x")
        assert calm.recv(1) == b"x"
    for end in (late, far_late, calm, far_calm):
        end.close()


def test_a_call_that_ended_is_not_watched_any_more() -> None:
    overdue = Overdue()
    ours, far = socket.socketpair()
    other, far_other = socket.socketpair()
    other.settimeout(LONG_S)
    with overdue.limit(ours.fileno(), 0.05):
        pass
    # The watcher has been past the first deadline once it has acted on a later one.
    with overdue.limit(other.fileno(), 0.1):
        assert other.recv(1) == b""
    far.send(b"y")
    assert ours.recv(1) == b"y"
    for end in (ours, far, other, far_other):
        end.close()


def test_a_later_socket_of_the_same_number_is_left_alone() -> None:
    overdue = Overdue()
    first, far_first = socket.socketpair()
    number = first.fileno()
    with overdue.limit(number, 0.05):
        first.close()
        second, far_second = socket.socketpair()
        assert number in (second.fileno(), far_second.fileno())
        far_first.settimeout(LONG_S)
        # Reached once the watched connection was shut.
        assert far_first.recv(1) == b""
    far_second.send(b"z")
    assert second.recv(1) == b"z"
    for end in (far_first, second, far_second):
        end.close()


def test_many_calls_at_once_are_each_limited() -> None:
    overdue = Overdue()
    ended: list[float] = []

    def call(limit_s: float) -> None:
        ours, far = socket.socketpair()
        ours.settimeout(LONG_S)
        began_s = time.monotonic()
        with overdue.limit(ours.fileno(), limit_s):
            assert ours.recv(1) == b""
        ended.append(time.monotonic() - began_s - limit_s)
        ours.close()
        far.close()

    threads = [threading.Thread(target=call, args=(0.01 * (10 - number),)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert len(ended) == 10
    assert all(late_s >= 0 for late_s in ended)
