"""Addresses for processes that are yet to come."""

from __future__ import annotations

import contextlib
import socket


def free_ports(count: int) -> list[str]:
    """So many addresses of this machine at which nobody listens now, all different. Another process may take
    one before it is used; whoever listens there then fails to start, and says so."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
