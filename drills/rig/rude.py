"""Clients without manners: many, all at once, each asking again the moment that it was not answered.

No jitter, no backoff, no budget, and a new connection after each failure: what a storm of retries is made of.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

from drills.rig.load import DEADLINE_METADATA, OK, SEARCH_METHOD
from drills.rig.wire import Answer, Connection, WireError, header, request_headers

CONNECT_S = 0.25
NO_CONNECTION_S = 0.01
"""Pause after a connection that was refused, so that the sender itself does not stand still."""


class RudeClients:
    """So many clients in a thread of their own, each with one search under way at any time.

    addresses: each client asks one of them. deadline_ms: patience with an answer. rate_max_per_s: searches
    that all of them together send at most; None: as many as they can. sent, answered: so far.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        requests: Sequence[bytes],
        *,
        clients: int,
        deadline_ms: float,
        rate_max_per_s: float | None = None,
    ) -> None:
        self._gap_s = 0.0 if rate_max_per_s is None else 1.0 / rate_max_per_s
        self._next_s = 0.0
        self._addresses = tuple(addresses)
        self._requests = tuple(requests)
        self._clients = clients
        self._deadline_s = deadline_ms / 1000.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rude-clients", daemon=True)
        self.sent = self.answered = self.connections = 0

    def start(self) -> None:
        """All of them begin."""
        self._thread.start()

    def stop(self) -> None:
        """None asks any more. Safe to call twice."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(self._clients)))

    async def _one(self, number: int) -> None:
        address = self._addresses[number % len(self._addresses)]
        connection: Connection | None = None
        while not self._ended.is_set():
            if connection is None:
                self.connections += 1
                try:
                    connection = await Connection.connect(address, timeout_s=CONNECT_S)
                except (OSError, TimeoutError):
                    await asyncio.sleep(NO_CONNECTION_S)
                    continue
            if not await self._ask(connection, address, number):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _turn(self) -> bool:
        """Waits for the next moment at which one of them may send; False where they are to end."""
        now_s = time.monotonic()
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + self._gap_s
        while (wait_s := due_s - time.monotonic()) > 0 and not self._ended.is_set():
            await asyncio.sleep(min(wait_s, 0.1))
        return not self._ended.is_set()

    async def _ask(self, connection: Connection, address: str, number: int) -> bool:
        if self._gap_s and not await self._turn():
            return True
        deadline_s = time.monotonic() + self._deadline_s
        unix_us = int((time.time() + self._deadline_s) * 1e6)
        headers = b"".join(
            (
                request_headers(SEARCH_METHOD, address),
                header("grpc-timeout", f"{int(self._deadline_s * 1e6)}u"),
                header(DEADLINE_METADATA, str(unix_us)),
            )
        )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def ended(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self.sent += 1
        try:
            connection.send(headers, self._requests[number % len(self._requests)], deadline_s, ended)
            answer = await asyncio.wait_for(future, self._deadline_s * 2)
        except (WireError, TimeoutError):
            return False
        self.answered += answer.status == OK
        return answer.status == OK
