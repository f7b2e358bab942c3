"""When do many clients come back to a server that was away: `python -m benchmarks.reconnect --down 3`.

Question: do clients that lose a server at one moment return in step, or spread out? Excluded: what the server
does with them; bare listeners take its place, as only the moment of each connection counts.

How: each client has a listener of its own, which tells it from the others. All connect, every connection is
reset at one moment, the listeners are gone for `--down` seconds, then the first connection of each client is
timed from their return. The clients search all the while, as an application would.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from muster.client import AsyncClient, MusterError

CLIENTS_MAX = 300
_BIN_S = 0.05
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Returns:
    """back_s: seconds from the server's return to the first connection of each client that came back."""

    clients: int
    back_s: list[float]

    @property
    def last_s(self) -> float | None:
        """When the last one was back; None: some never were."""
        return max(self.back_s) if len(self.back_s) == self.clients else None

    @property
    def crowd(self) -> float:
        """Largest share of all clients that came within one bin of 50 ms."""
        bins = Counter(int(at / _BIN_S) for at in self.back_s)
        return max(bins.values(), default=0) / self.clients


class Listeners:
    """One for each client, on the loopback; they accept, and say nothing. ports: 0 takes a free one."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._selector = selectors.DefaultSelector()
        self._held: list[socket.socket] = []
        self.ports: list[int] = []
        for port in ports:
            listener = socket.create_server(("127.0.0.1", port), backlog=16)
            self._held.append(listener)
            self.ports.append(listener.getsockname()[1])
            self._selector.register(listener, selectors.EVENT_READ, self.ports[-1])

    def accept_all(self, timeout_s: float) -> dict[int, float]:
        """Waits until each has accepted a connection; the monotonic moment of the first one, by port."""
        first_s: dict[int, float] = {}
        give_up_at = time.monotonic() + timeout_s
        while len(first_s) < len(self.ports) and time.monotonic() < give_up_at:
            for key, _ in self._selector.select(0.02):
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                self._held.append(listener.accept()[0])
                first_s.setdefault(key.data, time.monotonic())
        return first_s

    def close(self) -> None:
        """Resets every connection, as a killed process does."""
        self._selector.close()
        for one in self._held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.close()


def measure(clients: int, down_s: float, *, timeout_s: float = 30.0) -> Returns:
    """One loss and return. Raises: TimeoutError where the clients do not connect at all."""
    lost = Listeners([0] * clients)
    back_s: list[float] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def serve() -> None:
        try:
            connected = len(lost.accept_all(timeout_s))
            lost.close()
            if connected < clients:
                raise TimeoutError(f"{clients - connected} of {clients} clients did not connect")
            time.sleep(down_s)
            came_back_s = time.monotonic()
            found = Listeners(lost.ports)
            back_s.extend(sorted(at_s - came_back_s for at_s in found.accept_all(timeout_s).values()))
            found.close()
        except BaseException as failure:
            failures.append(failure)
        finally:
            done.set()

    async def use(client: AsyncClient) -> None:
        while not done.is_set():
            with contextlib.suppress(MusterError):
                await client.search("anything", deadline_ms=300)
            await asyncio.sleep(0.5)

    async def all_clients() -> None:
        opened = [AsyncClient(f"127.0.0.1:{port}") for port in lost.ports]
        await asyncio.gather(*map(use, opened))
        for client in opened:
            await client.close()

    server = threading.Thread(target=serve)
    server.start()
    asyncio.run(all_clients())
    server.join()
    if failures:
        raise failures[0]
    return Returns(clients, back_s)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.reconnect", description="When many clients come back."
    )
    options.add_argument("--clients", type=int, default=200, help=f"1 to {CLIENTS_MAX}")
    options.add_argument("--down", type=float, default=3.0, metavar="S", help="seconds that it is away")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    given = options.parse_args(list(arguments))
    if not 1 <= given.clients <= CLIENTS_MAX or given.down < 0:
        options.error(f"--clients must be 1 to {CLIENTS_MAX}, --down not below 0")
    found = measure(given.clients, given.down)
    if given.json:
        print(
            json.dumps(
                {"clients": found.clients, "down_s": given.down, "last_s": found.last_s, "crowd": found.crowd}
            )
        )
    else:
        last = "not all" if found.last_s is None else f"all within {found.last_s:.2f} s"
        print(f"{len(found.back_s)} of {found.clients} clients back, {last};")
        print(f"the fullest 50 ms held {found.crowd:.0%} of them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
