"""What a session asks of its reads."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from muster.client import AsyncClient, Client, MusterError, Session, delete
from tests.muster.conftest import Start
from tests.muster.scripted_replica import fails

LONG_MS = 20_000.0


def test_reads_of_a_session_wait_for_its_writes(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    session = Session()
    with Client(replicas[0].endpoint) as client:
        client.search("tea", deadline_ms=LONG_MS, session=session)
        for _ in range(3):
            client.apply(delete("P"), deadline_ms=LONG_MS, session=session)
        client.search("tea", deadline_ms=LONG_MS, session=session)
        client.rerank("tea", ["P1"], deadline_ms=LONG_MS, session=session)
        client.get("P1", deadline_ms=LONG_MS, session=session)
        client.get("P1", deadline_ms=LONG_MS, session=session, min_sequence=9)
        client.get("P1", deadline_ms=LONG_MS)
    wanted = [request.min_sequence for request in replicas[0].requests if hasattr(request, "min_sequence")]
    assert wanted == [0, 3, 3, 3, 9, 0]


def test_the_asyncio_client_takes_the_same_sessions(start_replicas: Start) -> None:
    replicas = start_replicas(1)

    async def work() -> None:
        session = Session(2)
        async with AsyncClient(replicas[0].endpoint) as client:
            await client.get("P1", deadline_ms=LONG_MS, session=session)
            for _ in range(4):
                await client.apply(delete("P"), deadline_ms=LONG_MS, session=session)
            await client.search("tea", deadline_ms=LONG_MS, session=session)
            await client.rerank("tea", ["P1"], deadline_ms=LONG_MS, session=session)

    asyncio.run(asyncio.wait_for(work(), 60))
    wanted = [request.min_sequence for request in replicas[0].requests if hasattr(request, "min_sequence")]
    assert wanted == [2, 4, 4]


def test_a_failed_write_moves_no_session(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = fails(grpc.StatusCode.NOT_FOUND)
    session = Session(7)
    with Client(replicas[0].endpoint) as client, pytest.raises(MusterError):
        client.apply(delete("P"), deadline_ms=LONG_MS, session=session)
    assert session.sequence == 7


def test_only_a_monotonic_session_remembers_what_it_read() -> None:
    for monotonic, expected in ((False, 3), (True, 8)):
        session = Session(3, monotonic_reads=monotonic)
        session.read(8)
        session.read(5)
        assert session.sequence == expected
    with pytest.raises(ValueError, match="not below 0"):
        Session(-1)
