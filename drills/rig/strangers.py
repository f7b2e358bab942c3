"""Callers with tokens of their own over connections of their own, from several addresses of this machine.

`Attackers` bring what must be refused, `Newcomers` a new good token each time. They enter the history as
`attack` and `fresh`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.rig.direct import UNREACHED
from drills.rig.forged import BODIES, OPERATORS, Forged
from drills.rig.hostile import SEARCH
from drills.rig.load import OK
from drills.rig.wire import Answer, Connection, WireError, header, request_headers

ATTACK, FRESH = "attack", "fresh"
_CONNECT_S = 2.0


@dataclass
class Place:
    """One address that calls one replica, over one connection, made again where it is lost."""

    source: str
    replica: str
    address: str
    _connection: Connection | None = None
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def call(self, method: str, token: str | None, deadline_s: float) -> Answer:
        """Raises: OSError, TimeoutError, WireError."""
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = await Connection.connect(
                    self.address, timeout_s=_CONNECT_S, source=self.source
                )
        left_us = max(1, int((deadline_s - time.monotonic()) * 1e6))
        headers = request_headers(method, self.address) + header("grpc-timeout", f"{left_us}u")
        if token is not None:
            headers += header("authorization", f"Bearer {token}")
        return await self._connection.call(headers, BODIES[method], deadline_s)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()


def places(sources: Sequence[str], addresses: Mapping[str, str]) -> list[Place]:
    """Every source at every replica. addresses: by the replicas' names."""
    return [Place(source, name, address) for source in sources for name, address in addresses.items()]


class Attackers:
    """Each place in turn, each kind in turn at every place."""

    def __init__(self, where: Sequence[Place], kinds: Sequence[Forged], *, deadline_ms: float) -> None:
        self._places = tuple(where)
        self._kinds = tuple(kinds)
        self._deadline_s = deadline_ms / 1000.0

    async def open(self) -> None:
        """Connections are made with the first call."""

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One call; the status is gRPC's."""
        place = self._places[index % len(self._places)]
        kind = self._kinds[index // len(self._places) % len(self._kinds)]
        told = {
            "asked": place.replica,
            "source": place.source,
            "forged": kind.name,
            "expected": kind.status,
            "operator": kind.method in OPERATORS,
        }
        token = None if kind.token is None else kind.token(index)
        return await _answered(place, kind.method, token, self._deadline_s, told)

    async def close(self) -> None:
        """Closes the connections."""
        for place in self._places:
            place.close()


class Newcomers:
    """Searches at each place in turn, each with a token that no replica has seen. token: of a number."""

    def __init__(self, where: Sequence[Place], token: Callable[[int], str], *, deadline_ms: float) -> None:
        self._places = tuple(where)
        self._token = token
        self._deadline_s = deadline_ms / 1000.0

    async def open(self) -> None:
        """Connections are made with the first call."""

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search; the status is gRPC's."""
        place = self._places[index % len(self._places)]
        told = {"asked": place.replica, "source": place.source}
        return await _answered(place, SEARCH, self._token(index), self._deadline_s, told)

    async def close(self) -> None:
        """Closes the connections."""
        for place in self._places:
            place.close()


async def _answered(
    place: Place, method: str, token: str | None, deadline_s: float, told: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    try:
        answer = await place.call(method, token, time.monotonic() + deadline_s)
    except (OSError, TimeoutError, WireError) as error:
        return UNREACHED, {**told, "detail": str(error)}
    return answer.status, told if answer.status == OK else {**told, "detail": answer.message}
