"""How each kind of server is asked, for the load generators of `drills.rig.load`.

Every caller sends requests prepared in advance and keeps the answer's bytes; `order` reads them after the
run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.peers import namespace
from benchmarks.peers.http_wire import HttpPool, http_post
from benchmarks.peers.messages import (
    RERANK_METHOD,
    TRITON_METHOD,
    rerank_request,
    rerank_scores,
    triton_request,
    triton_scores,
)
from benchmarks.peers.roster import Peer
from benchmarks.peers.workload import Asked, order_of
from drills.rig.load import DEADLINE_METADATA, OK, UNSENT, Caller, Sample, receipt_fields
from drills.rig.wire import Connection, WireError, header, request_headers
from muster.v1 import ranking_pb2

MUSTER_METHOD = "/muster.v1.RankingService/Rerank"
RESULTS = 10
Order = Callable[[Asked, bytes], tuple[list[int], dict[str, Any]]]
"""Reads an answer: places of the candidates best first, and what else is worth keeping."""


class GrpcCaller:
    """One HTTP/2 connection.

    requests: serialised, used in turn. deadline_ms: counts from the intended moment; sent as gRPC's deadline,
    and, with `absolute`, as Muster's metadata. fields: header fields besides. inside: pid of a process in
    whose network namespace the address is.
    """

    def __init__(
        self,
        address: str,
        method: str,
        requests: Sequence[bytes],
        *,
        deadline_ms: float,
        absolute: bool = False,
        fields: Sequence[tuple[str, str]] = (),
        inside: int | None = None,
    ) -> None:
        self._address = address
        self._requests = requests
        self._deadline_s = deadline_ms / 1000.0
        self._absolute = absolute
        self._inside = inside
        self._headers = request_headers(method, address) + b"".join(header(*field) for field in fields)
        self._wall_offset_s = time.time() - time.monotonic()
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connects. Raises: OSError, TimeoutError."""
        over = None if self._inside is None else namespace.connected(self._inside, self._address)
        self._connection = await Connection.connect(self._address, over=over)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One request; the answer is kept under "body"."""
        assert self._connection is not None
        deadline_s = intended_s + self._deadline_s
        left_us = int((deadline_s - time.monotonic()) * 1e6)
        if left_us <= 0:
            return UNSENT, {}
        headers = self._headers + header("grpc-timeout", f"{left_us}u")
        if self._absolute:
            headers += header(DEADLINE_METADATA, str(int((deadline_s + self._wall_offset_s) * 1e6)))
        try:
            answer = await self._connection.call(
                headers, self._requests[index % len(self._requests)], deadline_s
            )
        except WireError as error:
            return "UNAVAILABLE", {"detail": str(error)}
        return answer.status, {"body": answer.body} if answer.status == OK else {"detail": answer.message}

    async def close(self) -> None:
        """Disconnects."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class HttpCaller:
    """A pool of HTTP/1.1 connections. requests: whole ones, used in turn. deadline_ms: the caller gives up
    then."""

    def __init__(self, address: str, requests: Sequence[bytes], *, deadline_ms: float) -> None:
        self._requests = requests
        self._deadline_s = deadline_ms / 1000.0
        self._pool = HttpPool(address)

    async def open(self) -> None:
        """Connects. Raises: OSError."""
        await self._pool.open()

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One request; the answer is kept under "body"."""
        deadline_s = intended_s + self._deadline_s
        if deadline_s <= time.monotonic():
            return UNSENT, {}
        # asyncio's clock is the monotonic one.
        answer = await self._pool.post(self._requests[index % len(self._requests)], deadline_s)
        return answer.status, {"body": answer.body} if answer.status == OK else {}

    async def close(self) -> None:
        """Disconnects."""
        self._pool.close()


def peer_caller(
    peer: Peer, address: str, asked: Sequence[Asked], *, deadline_ms: float, inside: int | None = None
) -> Caller:
    """A caller for one peer."""
    if peer.protocol in ("grpc", "triton"):
        method, made = {
            "grpc": (RERANK_METHOD, rerank_request),
            "triton": (TRITON_METHOD, triton_request),
        }[peer.protocol]
        fields = [("application", peer.application)] if peer.application else []
        requests = [made(one.query, one.texts) for one in asked]
        return GrpcCaller(address, method, requests, deadline_ms=deadline_ms, fields=fields, inside=inside)
    if peer.protocol == "infinity":
        # Raw: a sigmoid makes equal what float32 can no longer tell apart near 1.
        made_of = [{"query": one.query, "documents": one.texts, "raw_scores": True} for one in asked]
    else:
        made_of = [{"query": one.query, "texts": one.texts} for one in asked]
    bodies = [json.dumps(one).encode() for one in made_of]
    return HttpCaller(
        address, [http_post("/rerank", address, body) for body in bodies], deadline_ms=deadline_ms
    )


def muster_caller(address: str, asked: Sequence[Asked], *, deadline_ms: float) -> Caller:
    """A caller for Muster's Rerank: product ids, and the first ten results."""
    requests = [
        ranking_pb2.RerankRequest(
            query=one.query, product_ids=one.product_ids, page_size=RESULTS
        ).SerializeToString()
        for one in asked
    ]
    return GrpcCaller(address, MUSTER_METHOD, requests, deadline_ms=deadline_ms, absolute=True)


def peer_order(peer: Peer) -> Order:
    """How a peer's answers are read. The order raises ValueError on an answer that lacks scores."""

    def infinity(body: bytes) -> list[float]:
        results = json.loads(body)["results"]
        scores = [0.0] * len(results)
        for one in results:
            scores[one["index"]] = one["relevance_score"]
        return scores

    def plain(body: bytes) -> list[float]:
        scores: list[float] = json.loads(body)["scores"]
        return scores

    read = {"grpc": rerank_scores, "triton": triton_scores, "infinity": infinity, "json": plain}[
        peer.protocol
    ]

    def order(asked: Asked, body: bytes) -> tuple[list[int], dict[str, Any]]:
        scores = read(body)
        if len(scores) != len(asked.texts):
            raise ValueError(f"{peer.name} gave {len(scores)} scores for {len(asked.texts)} texts")
        return order_of(scores), {}

    return order


def muster_order(asked: Asked, body: bytes) -> tuple[list[int], dict[str, Any]]:
    """Muster's answer, with what its receipt says."""
    response = ranking_pb2.RerankResponse.FromString(body)
    place = {name: at for at, name in enumerate(asked.product_ids)}
    return [place[result.product_id] for result in response.results], receipt_fields(response.receipt)


def read_answers(samples: Sequence[Sample], asked: Sequence[Asked], order: Order) -> None:
    """Replaces the kept answers by "ndcg" and what else `order` keeps, in place.

    An answer that cannot be read counts as BAD_ANSWER: a server under load may send half of one.
    """
    for sample in samples:
        body = sample.fields.pop("body", None)
        if body is None:
            continue
        one = asked[sample.index % len(asked)]
        try:
            places, fields = order(one, body)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            sample.status = "BAD_ANSWER"
            sample.fields["detail"] = str(error)
            continue
        sample.fields.update(fields, ndcg=one.ndcg(places))
