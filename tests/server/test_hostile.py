"""What the drills oversized_payload and poison_request send, each once, to a real replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drills.rig.hostile import HostileCalls, oversized, poison
from muster.v1 import ranking_pb2
from tests.server.replica import Replica, shoes


@pytest.fixture(scope="module")
def replica(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    data = tmp_path_factory.mktemp("hostile") / "data"
    with Replica(bundle, data, "a", {"generation.rebuild": "false"}) as one:
        one.wait_primary().apply(*shoes(10))
        yield one


@pytest.mark.parametrize("kind", ["oversized", "poison"])
def test_every_hostile_request_ends_as_it_may_and_the_replica_goes_on(replica: Replica, kind: str) -> None:
    requests = oversized() if kind == "oversized" else poison(1)
    calls = HostileCalls({"a": replica.address}, requests, lambda: "a", deadline_ms=5_000)

    async def send() -> list[tuple[str, dict[str, Any]]]:
        await calls.open()
        try:
            return [await calls.call(number, 0.0) for number in range(len(requests))]
        finally:
            await calls.close()

    ended = asyncio.run(send())
    wrong = [
        (told["request"], status, told.get("detail"))
        for status, told in ended
        if status not in told["accepted"]
    ]
    assert not wrong
    assert {told["request"] for _, told in ended} == {request.name for request in requests}
    assert replica.process.poll() is None
    answer = replica.ranking.Search(ranking_pb2.SearchRequest(query="shoe"), timeout=10)
    assert answer.results
