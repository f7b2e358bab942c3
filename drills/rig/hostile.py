"""Requests that no decent client sends: over every limit, malformed, or merely strange; and what may become
of them.

Each says with which statuses it may end. Whatever else it ends with, INTERNAL or UNAVAILABLE above all, is a
fault of the service.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from muster.client import Credentials
from muster.v1 import catalogue_pb2, ranking_pb2

SEARCH = "/muster.v1.RankingService/Search"
RERANK = "/muster.v1.RankingService/Rerank"
APPLY = "/muster.v1.CatalogueService/Apply"
GET = "/muster.v1.CatalogueService/Get"

INVALID = frozenset({"INVALID_ARGUMENT"})
TOO_LARGE = frozenset({"RESOURCE_EXHAUSTED"})
HANDLED = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND"})
"""Of a request that is strange, but perhaps legal."""

NEVER = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Of a request for what will not come, however long one waits."""

KIB, MIB = 1024, 1024 * 1024
REQUEST_BYTES_MAX = 8 * MIB
"""Default of `rpc.request_bytes_max`."""


@dataclass(frozen=True)
class Hostile:
    """One such request. accepted: statuses that it may end with. zipped: sent compressed, so that it is small
    on the way. writes: it goes to the primary, since a standby refuses any write."""

    name: str
    method: str
    body: bytes
    accepted: frozenset[str]
    zipped: bool = False
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it asks for a write."""
        return self.method == APPLY


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, wire_type: int) -> bytes:
    """The tag of a field."""
    return varint(number << 3 | wire_type)


def text(number: int, value: bytes) -> bytes:
    """A field of text or bytes, whatever is in it."""
    return tagged(number, 2) + varint(len(value)) + value


def nested(number: int, depth: int) -> bytes:
    """A message in a message in a message, each of the field's number."""
    body = b""
    for _ in range(depth):
        body = text(number, body)
    return body


def groups(number: int, depth: int) -> bytes:
    """Groups within groups, all of them closed."""
    return tagged(number, 3) * depth + tagged(number, 4) * depth


def _search(**fields: Any) -> bytes:
    return ranking_pb2.SearchRequest(**{"query": "shoe", **fields}).SerializeToString()


def _apply(*events: catalogue_pb2.Event) -> bytes:
    return catalogue_pb2.ApplyRequest(events=events).SerializeToString()


def _upsert(**fields: Any) -> catalogue_pb2.Event:
    product = catalogue_pb2.Product(**{"product_id": "hostile", "title": "hostile", **fields})
    return catalogue_pb2.Event(event_id="hostile", upsert=product)


def oversized() -> list[Hostile]:
    """Requests over every limit of the contract and of the front."""
    gone = catalogue_pb2.Delete(product_id="none")
    many = [catalogue_pb2.Event(event_id=f"hostile-{n}", delete=gone) for n in range(1_001)]
    huge = _search(query="x" * (REQUEST_BYTES_MAX + KIB))
    names = [ranking_pb2.AttributeFilter(name=f"n{n}", values=["v"]) for n in range(5_000)]
    return [
        Hostile("a message above the limit", SEARCH, huge, TOO_LARGE),
        Hostile("a write above the limit", APPLY, _apply(_upsert(description="x" * 9 * MIB)), TOO_LARGE),
        # What is refused by its length once unpacked, or because packed messages are not taken at all.
        Hostile("a bomb", SEARCH, _search(query="x" * 9 * MIB), TOO_LARGE | {"UNIMPLEMENTED"}, zipped=True),
        Hostile("a query of a megabyte", SEARCH, _search(query="x " * (MIB // 2)), INVALID),
        Hostile("a query one too long", SEARCH, _search(query="x" * 1_025), INVALID),
        Hostile("too many facets", SEARCH, _search(facets=["brand"] * 100_000), INVALID),
        Hostile("too many brands", SEARCH, _search(filter={"brands": ["b"] * 50_000}), INVALID),
        Hostile("too many attributes", SEARCH, _search(filter={"attributes": names}), INVALID),
        Hostile("a page too large", SEARCH, _search(page_size=2**32 - 1), INVALID),
        Hostile("an offset too large", SEARCH, _search(offset=2**32 - 1), INVALID),
        Hostile(
            "too many candidates",
            RERANK,
            ranking_pb2.RerankRequest(
                query="shoe", product_ids=[f"p{n}" for n in range(200_000)]
            ).SerializeToString(),
            INVALID,
        ),
        Hostile(
            "an identifier of a megabyte",
            GET,
            catalogue_pb2.GetRequest(product_id="x" * MIB).SerializeToString(),
            INVALID | {"NOT_FOUND"},
        ),
        Hostile("too many events", APPLY, _apply(*many), INVALID),
        Hostile("a title of a megabyte", APPLY, _apply(_upsert(title="x" * MIB)), INVALID),
        Hostile("a description of a megabyte", APPLY, _apply(_upsert(description="é" * (MIB // 2))), INVALID),
        Hostile(
            "too many attributes of a product",
            APPLY,
            _apply(_upsert(attributes={f"n{n}": "v" for n in range(20_000)})),
            INVALID,
        ),
        Hostile("messages nested a million bytes deep", SEARCH, nested(99, 30_000), HANDLED),
        Hostile("groups nested deep", SEARCH, text(1, b"shoe") + groups(99, 50_000), INVALID),
        Hostile("groups of a write nested deep", APPLY, groups(99, 50_000), INVALID),
    ]


def poison(seed: int) -> list[Hostile]:
    """Requests that are malformed, or as strange as the contract allows. seed: of those made at random."""
    chance = random.Random(seed)
    good = _search(query="running shoes", facets=["brand"], filter={"brands": ["acme"]})
    noise = [chance.randbytes(size) for size in (1, 7, 64, 1_000, 10_000)]
    flipped = []
    for _ in range(12):
        body = bytearray(good)
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        flipped.append(bytes(body))
    malformed = {
        "a length that goes on": tagged(1, 2) + b"\xff" * 11,
        "a length beyond the end": tagged(1, 2) + varint(2**31) + b"shoe",
        "a length of 2^63": tagged(1, 2) + varint(2**63) + b"shoe",
        "field zero": b"\x02\x04shoe",
        "a wire type there is not": text(1, b"shoe") + b"\x0f",
        "a group that never ends": text(1, b"shoe") + tagged(5, 3) * 100,
        "an end without a group": text(1, b"shoe") + tagged(5, 4),
        "a query that is no UTF-8": text(1, b"\xff\xfe\xc0\x80"),
        "half a character": text(1, "schöne".encode()[:4]),
        "nothing at all": b"",
        "a query of spaces": text(1, b" \t\n" * 300),
        "a price that is no number": _search(filter={"price_min": float("nan")}),
        "a price without an end": _search(filter={"price_max": float("inf")}),
        "a priority there is not": text(1, b"shoe") + tagged(8, 0) + varint(2**40),
    }
    strange = {
        "nothing but accents": "\u0301" * 1_024,
        "every other way round": "\u202e\u202d" * 512,
        "families": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 200,
        "a nought": "shoe\0shoe",
        "one letter again and again": "a " * 512,
        "one word without an end": "z" * 1_024,
        "every script": "".join(map(chr, range(0x0700, 0x0B00))),
        "not a character": "\ufffe\uffff" * 100,
        "what an index would ask": '" OR * AND (shoe) ~2^9 {a TO z}',
        "from the end of Unicode": "\U0010fffd" * 1_000,
    }
    far = (("muster-deadline-unix-us", "9" * 18), ("muster-priority", "critical"))
    odd = (("muster-deadline-unix-us", "soon"), ("grpc-previous-rpc-attempts", "many"))
    return [
        *(Hostile(name, SEARCH, body, INVALID | HANDLED) for name, body in malformed.items()),
        *(Hostile(name, SEARCH, _search(query=query), HANDLED) for name, query in strange.items()),
        *(Hostile(f"noise of {len(body)}", SEARCH, body, HANDLED) for body in noise),
        *(Hostile(f"flip {n}", SEARCH, body, HANDLED) for n, body in enumerate(flipped)),
        *(Hostile(f"noise of {len(body)} as candidates", RERANK, body, HANDLED) for body in noise),
        Hostile("no candidates", RERANK, text(1, b"shoe"), HANDLED),
        Hostile("the same one a thousand times", RERANK, text(1, b"shoe") + text(2, b"p") * 1_000, HANDLED),
        Hostile("a write of nothing", APPLY, b"", INVALID | {"OK"}),
        Hostile("a write that says nothing", APPLY, text(1, text(1, b"e")), INVALID),
        Hostile("a deadline far away", SEARCH, good, HANDLED, metadata=far),
        Hostile("a deadline that is no number", SEARCH, good, HANDLED, metadata=odd),
        Hostile("a page that never was", SEARCH, _search(offset=900, page_size=100), HANDLED),
        Hostile("a sequence that never will be", SEARCH, _search(min_sequence=2**63), NEVER),
    ]


@dataclass
class HostileCalls:
    """Sends them in turn, each to each replica. addresses: by the replicas' names. primary: tells who takes
    writes."""

    addresses: Mapping[str, str]
    requests: Sequence[Hostile]
    primary: Callable[[], str]
    deadline_ms: float = 2_000.0
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    async def open(self) -> None:
        """Makes a channel to each, which bounds nothing by itself."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        for name, address in self.addresses.items():
            self._channels[name] = Credentials.from_environment().aio_channel(address, options)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One of them; its status is gRPC's."""
        request = self.requests[index % len(self.requests)]
        names = tuple(self.addresses)
        asked = self.primary() if request.writes else names[index // len(self.requests) % len(names)]
        told = {"asked": asked, "request": request.name, "accepted": sorted(request.accepted)}
        call = self._channels[asked].unary_unary(request.method)
        try:
            await call(
                request.body,
                timeout=self.deadline_ms / 1000.0,
                metadata=request.metadata,
                compression=grpc.Compression.Gzip if request.zipped else None,
            )
        except grpc.RpcError as error:
            return error.code().name, {"detail": (error.details() or "")[:200], **told}
        return "OK", told

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
