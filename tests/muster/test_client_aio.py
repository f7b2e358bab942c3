"""The asyncio client against real servers with scripted faults."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
import pytest

from muster.client import (
    AsyncClient,
    ClientClosed,
    ClientSettings,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unavailable,
    delete,
)
from muster.v1 import admin_pb2
from tests.muster.conftest import Start
from tests.muster.scripted_replica import ScriptedReplica, fails

CODE = grpc.StatusCode
LONG_MS = 20_000.0
Value = TypeVar("Value")


def connect(replicas: list[ScriptedReplica], **settings: Any) -> AsyncClient:
    return AsyncClient([replica.endpoint for replica in replicas], settings=ClientSettings(**settings))


def run(work: Coroutine[Any, Any, Value]) -> Value:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_searches_run_side_by_side_over_all_replicas(start_replicas: Start) -> None:
    replicas = start_replicas(3)

    async def work() -> None:
        async with connect(replicas, hedge_after_ms=LONG_MS) as client:
            answers = await asyncio.gather(*(client.search("tea", deadline_ms=LONG_MS) for _ in range(30)))
            assert len(answers) == 30
            assert (await client.rerank("tea", ["A"], deadline_ms=LONG_MS)).results[0].product_id == "A"
            assert (await client.get("A", deadline_ms=LONG_MS)).product.product_id == "A"
            await client.search("tea", deadline_ms=LONG_MS, priority="critical")
            await client.rerank("tea", ["A"], deadline_ms=LONG_MS, priority="sheddable")

    run(work())
    assert sum(len(replica.calls) for replica in replicas) == 34
    sent = [
        request.priority
        for replica in replicas
        for request in replica.requests
        if hasattr(request, "priority")
    ]
    assert sorted(sent) == [0] * 31 + [1, 3]
    assert all(len(replica.calls) >= 10 for replica in replicas)
    assert "muster-deadline-unix-us" in replicas[0].metadata[0]


def test_an_unavailable_replica_is_replaced_by_another_one(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = fails(CODE.UNAVAILABLE)

    async def work() -> list[str]:
        async with connect(replicas, hedge_after_ms=LONG_MS) as client:
            return [(await client.search("tea", deadline_ms=LONG_MS)).receipt.replica for _ in range(6)]

    assert run(work()) == ["r1"] * 6


def test_a_single_replica_that_recovers_is_asked_again(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].script = [fails(CODE.UNAVAILABLE)] * 3

    async def work() -> str:
        async with connect(replicas) as client:
            return (await client.search("tea", deadline_ms=LONG_MS)).receipt.replica

    assert run(work()) == "r0"
    assert len(replicas[0].calls) == 4


def test_a_silent_replica_is_hedged_and_its_call_is_cancelled(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = replicas[0].hang

    async def work() -> list[str]:
        async with connect(replicas) as client:
            answers = [(await client.search("tea", deadline_ms=LONG_MS)).receipt.replica for _ in range(4)]
            assert await asyncio.to_thread(replicas[0].left.wait, 10)
            return answers

    assert run(work()) == ["r1"] * 4


def test_a_cancelled_task_leaves_the_server(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang

    async def work() -> None:
        async with connect(replicas) as client:
            task = asyncio.ensure_future(client.search("tea", deadline_ms=LONG_MS))
            while not replicas[0].calls:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(replicas[0].left.wait, 10)

    run(work())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (CODE.INVALID_ARGUMENT, InvalidRequest),
        (CODE.NOT_FOUND, NotFound),
        (CODE.RESOURCE_EXHAUSTED, Overloaded),
        (CODE.UNAVAILABLE, Unavailable),
        (CODE.DEADLINE_EXCEEDED, DeadlineExceeded),
    ],
)
def test_statuses_become_errors(
    start_replicas: Start, code: grpc.StatusCode, expected: type[Exception]
) -> None:
    replicas = start_replicas(1)
    replicas[0].always = fails(code)

    async def work() -> None:
        async with connect(replicas) as client:
            with pytest.raises(expected, match="scripted"):
                await client.search("tea", deadline_ms=LONG_MS)

    run(work())


def test_a_passed_deadline_is_deadline_exceeded(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    for replica in replicas:
        replica.always = replica.hang

    async def work() -> None:
        async with connect(replicas) as client:
            with pytest.raises(DeadlineExceeded):
                await client.search("tea", deadline_ms=60)

    run(work())


def test_a_write_follows_the_role_and_is_applied_once(start_replicas: Start) -> None:
    replicas = start_replicas(2)

    def committed_but_lost(request: Any, context: grpc.ServicerContext) -> Any:
        replicas[0].append(request)
        replicas[0].serve(ranking=True, catalogue=False)
        replicas[1].serve(ranking=True, catalogue=True)
        replicas[0].always = fails(CODE.UNAVAILABLE, "standby")
        context.abort(CODE.UNAVAILABLE, "connection lost")

    replicas[0].script = [committed_but_lost]
    event = delete("P")

    async def work() -> Any:
        async with connect(replicas) as client:
            return await client.apply(event, deadline_ms=LONG_MS)

    answer = run(work())
    assert answer.duplicates == 1 and list(replicas[0].log) == [event.event_id]
    assert replicas[1].calls == ["Apply"]


def test_a_write_without_acknowledgement_says_that_its_outcome_is_unknown(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang

    async def work() -> None:
        async with connect(replicas) as client:
            with pytest.raises(DeadlineExceeded, match="send the same events") as caught:
                await client.apply(delete("P"), deadline_ms=100)
            assert caught.value.outcome == "unknown"

    run(work())


def test_a_write_that_cannot_reach_the_primary_tells_what_the_others_say_of_it(start_replicas: Start) -> None:
    [replica] = start_replicas(1)
    replica.serve(ranking=True, catalogue=False)
    replica.primary = "far"

    async def work() -> None:
        async with AsyncClient([replica.endpoint, "127.0.0.1:1"]) as client:
            with pytest.raises(DeadlineExceeded, match="the primary is far, says r0, and it does not answer"):
                await client.apply(delete("P"), deadline_ms=3_000)

    run(work())
    assert replica.calls == []


def test_a_write_that_is_cancelled_while_it_waits_leaves_the_server(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang

    async def work() -> None:
        async with connect(replicas) as client:
            writing = asyncio.create_task(client.apply(delete("P"), deadline_ms=LONG_MS))
            while not replicas[0].calls:
                await asyncio.sleep(0.005)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await asyncio.to_thread(replicas[0].left.wait, 10)

    run(work())


def test_watch_goes_on_at_another_replica_without_gap_or_double(start_replicas: Start) -> None:
    replicas = start_replicas(2)

    async def work() -> list[int]:
        seen = []
        async with connect(replicas) as client:
            async for event in client.watch(5):
                seen.append(event.sequence)
                if len(seen) == 8:
                    break
        return seen

    assert run(work()) == list(range(5, 13))


def test_status_tells_of_each_replica(start_replicas: Start) -> None:
    replicas = start_replicas(1)

    async def work() -> None:
        async with AsyncClient([replicas[0].endpoint, "127.0.0.1:1"]) as client:
            found = await client.status(deadline_ms=LONG_MS)
        assert found[0].status is not None and found[0].status.replica == "r0"
        assert isinstance(found[1].error, Unavailable)

    run(work())


def test_a_transfer_asks_the_primary(start_replicas: Start) -> None:
    replicas = start_replicas(2)

    async def work() -> None:
        async with connect(replicas) as client:
            with pytest.raises(Unavailable, match="none of the replicas is primary"):
                await client.transfer_lease(deadline_ms=LONG_MS)
            replicas[1].role = admin_pb2.ROLE_PRIMARY
            assert (await client.transfer_lease(deadline_ms=LONG_MS)).primary == "r1"
            replicas[1].script = [fails(CODE.UNAVAILABLE, "a standby now")]
            with pytest.raises(Unavailable, match="a standby now"):
                await client.transfer_lease(deadline_ms=LONG_MS)

    run(work())
    assert "TransferLease" not in replicas[0].calls


def test_a_closed_client_says_so(start_replicas: Start) -> None:
    replicas = start_replicas(1)

    async def work() -> None:
        client = connect(replicas)
        await client.search("tea", deadline_ms=LONG_MS)
        await client.close()
        await client.close()
        for call in (client.search("tea"), client.apply(delete("P")), client.status()):
            with pytest.raises(ClientClosed):
                await call

    run(work())
