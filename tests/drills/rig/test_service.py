from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Iterator

import pytest

from drills.rig.cluster import interrupted_by_sigterm
from drills.rig.service import abort_key


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a terminal; what is written to the other end is typed."""
    keys, screen = pty.openpty()
    with os.fdopen(screen, "r") as typed:
        monkeypatch.setattr("sys.stdin", typed)
        yield keys
    os.close(keys)


def test_q_is_what_control_c_is(terminal: int) -> None:
    typing = threading.Timer(0.2, os.write, [terminal, b"xq"])
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm(), abort_key():
        typing.start()
        time.sleep(30.0)


def test_other_keys_change_nothing_and_the_terminal_is_given_back(terminal: int) -> None:
    import sys
    import termios

    before = termios.tcgetattr(sys.stdin.fileno())
    with interrupted_by_sigterm(), abort_key():
        os.write(terminal, b"xyz\n")
        time.sleep(0.3)
        assert termios.tcgetattr(sys.stdin.fileno()) != before
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_without_a_terminal_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"q")
    with os.fdopen(read) as piped:
        monkeypatch.setattr("sys.stdin", piped)
        with interrupted_by_sigterm(), abort_key():
            time.sleep(0.2)
    os.close(write)
