"""Messages of every public method with bytes changed, sent to one replica as fast as it answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.message import Message

from drills.rig.hostile import GET, RERANK, SEARCH
from drills.rig.wire import Connection, WireError, request_headers
from muster.v1 import catalogue_pb2, ranking_pb2

_DEADLINE_S = 10.0
_SEEDS: dict[str, Sequence[Message]] = {
    SEARCH: [
        ranking_pb2.SearchRequest(
            query="running shoes", facets=["brand"], filter=ranking_pb2.Filter(brands=["acme"])
        ),
        ranking_pb2.SearchRequest(query="schöne Schuhe", page_size=20, offset=10, explain=True),
    ],
    RERANK: [ranking_pb2.RerankRequest(query="shoe", product_ids=["p1", "p2", "p3"])],
    GET: [catalogue_pb2.GetRequest(product_id="p1")],
}
"""None of them writes."""

HANDLED = frozenset(
    {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
)
"""What a mutation may end with: it may ask for a sequence that never comes, or be one call too many."""


def mutation(chance: random.Random) -> tuple[str, bytes]:
    """A method, and one of its messages with bytes flipped, cut out, doubled or put in."""
    method = chance.choice(sorted(_SEEDS))
    body = bytearray(chance.choice(_SEEDS[method]).SerializeToString(deterministic=True))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        match chance.randrange(4):
            case 0 if at < len(body):
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                del body[at : at + chance.randint(1, 8)]
            case 2:
                body[at:at] = body[at : at + chance.randint(1, 16)]
            case _:
                body[at:at] = chance.randbytes(chance.randint(1, 8))
    return method, bytes(body)


@dataclass
class Mutated:
    """What became of them. statuses: how many ended how; lost: connections that the replica gave up."""

    sent: int = 0
    lost: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def unexpected(self) -> dict[str, int]:
        """Statuses that tell of a fault of the service."""
        return {name: count for name, count in self.statuses.items() if name not in HANDLED}


async def send_mutated(address: str, messages: int, seed: int, *, at_once: int = 64) -> Mutated:
    """Sends so many over one connection, made again where it is lost. Raises: OSError, TimeoutError where the
    replica does not take one."""
    chance, found = random.Random(seed), Mutated()
    headers = {method: request_headers(method, address) for method in _SEEDS}
    connection = await Connection.connect(address)
    try:
        while found.sent < messages:
            batch: Sequence[tuple[str, bytes]] = [
                mutation(chance) for _ in range(min(at_once, messages - found.sent))
            ]
            end_s = time.monotonic() + _DEADLINE_S
            found.sent += len(batch)
            try:
                answers = await asyncio.gather(
                    *(connection.call(headers[method], body, end_s) for method, body in batch)
                )
            except WireError:
                found.lost += 1
                connection.close()
                connection = await Connection.connect(address)
                continue
            found.statuses.update(answer.status for answer in answers)
    finally:
        connection.close()
    return found
