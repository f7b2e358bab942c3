"""Searches to one replica alone, so that its own answers are seen: nothing is hedged, retried or sent
elsewhere.

They enter the history as `direct`: asked (the replica), and what a read has.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from drills.rig.load import DEADLINE_METADATA, OK, SEARCH_METHOD, UNSENT, receipt_fields
from drills.rig.shop import requests_for
from drills.rig.wire import Answer, Connection, WireError, header, request_headers
from muster.v1 import ranking_pb2

KIND = "direct"
UNREACHED = "UNREACHED"
"""There was no connection: nobody listens at the address."""

SILENT = "SILENT"
"""Neither an answer nor a refusal came before the deadline."""

_CONNECT_S = 1.0


class DirectReads:
    """Searches in turn over the queries. Connects again where the replica was away.

    deadline_ms: counts from the intended moment. told_ms: what the replica is told instead; None: the truth.
    """

    def __init__(
        self,
        replica: str,
        address: str,
        queries: Sequence[str],
        *,
        deadline_ms: float,
        told_ms: float | None = None,
    ) -> None:
        self._replica = replica
        self._address = address
        self._requests = requests_for(queries, page_size=10)
        self._deadline_s = deadline_ms / 1000.0
        self._told_s = self._deadline_s if told_ms is None else told_ms / 1000.0
        self._headers = request_headers(SEARCH_METHOD, address)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._wall_offset_s = time.time() - time.monotonic()

    async def open(self) -> None:
        """Connects, if the replica is there."""
        with contextlib.suppress(OSError, TimeoutError):
            await self._connected()

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search; the answer's receipt with `asked`, the replica."""
        asked = {"asked": self._replica}
        try:
            connection = await self._connected()
        except (OSError, TimeoutError) as error:
            return UNREACHED, {**asked, "detail": str(error)}
        deadline_s = intended_s + self._told_s
        left_us = int((deadline_s - time.monotonic()) * 1e6)
        if left_us <= 0:
            return UNSENT, asked
        headers = b"".join(
            (
                self._headers,
                header("grpc-timeout", f"{left_us}u"),
                header(DEADLINE_METADATA, str(int((deadline_s + self._wall_offset_s) * 1e6))),
            )
        )
        request = self._requests[index % len(self._requests)]
        try:
            answer = await connection.call(headers, request, deadline_s)
        except WireError as error:
            return UNREACHED, {**asked, "detail": str(error)}
        return _outcome(answer, asked, late=time.monotonic() >= deadline_s)

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = await asyncio.wait_for(Connection.connect(self._address), _CONNECT_S)
            return self._connection


def _outcome(answer: Answer, asked: dict[str, Any], *, late: bool) -> tuple[str, dict[str, Any]]:
    if answer.status == OK:
        receipt = ranking_pb2.SearchResponse.FromString(answer.body).receipt
        return OK, {**receipt_fields(receipt), **asked}
    # A replica that refuses in time says so; at the deadline the connection gives up by itself.
    status = SILENT if answer.status == "DEADLINE_EXCEEDED" and late else answer.status
    return status, {**asked, "detail": answer.message}
