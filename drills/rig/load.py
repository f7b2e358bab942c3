"""Open-loop load: the moment of every request is fixed before the run, whatever the service does.

Latency counts from the intended moment, not from when the request really left, so a stalled generator or
service cannot hide its own stall (coordinated omission). A generator that could not keep to its schedule says
so: see `lateness`.

`OpenLoop` sends anything that a `Caller` knows how to send; `SearchFlood` is the caller for high rates:
serialised requests prepared in advance, raw bytes back, decoded only after the run.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from drills.rig.wire import Answer, Connection, WireError, header, request_headers
from muster.v1 import ranking_pb2

DEADLINE_METADATA = "muster-deadline-unix-us"
SEARCH_METHOD = "/muster.v1.RankingService/Search"
RECOMMEND_METHOD = "/muster.v1.RankingService/Recommend"
RECOMMENDATION = "recommendation"
"""Kind of the samples and records of recommendations; searches are reads."""

OK = "OK"
UNSENT = "UNSENT"
"""The generator was so late that nothing of the budget was left; counted as offered and missed."""

LATE_AFTER_S = 0.010
"""A request that leaves this long after its intended moment counts as sent late: a fifth of a 50 ms budget is
gone. The event loop's timer alone is good to a millisecond or two."""


def poisson_arrivals(rate_per_s: float, seed: int) -> Iterator[float]:
    """Endless arrival times in seconds from 0, ascending, of a Poisson process; the same for the same
    seed."""
    if not rate_per_s > 0:
        raise ValueError(f"rate_per_s must be above 0, got {rate_per_s}")
    generator = np.random.default_rng(seed)
    last = 0.0
    while True:
        for gap in generator.exponential(1.0 / rate_per_s, size=1024).tolist():
            last += gap
            yield last


def even_arrivals(rate_per_s: float) -> Iterator[float]:
    """Endless arrival times in seconds from 0, one every 1/rate."""
    if not rate_per_s > 0:
        raise ValueError(f"rate_per_s must be above 0, got {rate_per_s}")
    number = 0
    while True:
        yield number / rate_per_s
        number += 1


@dataclass(slots=True)
class Sample:
    """One request as the caller saw it. Times are seconds of the monotonic clock.

    status: "OK", a gRPC status name, or "UNSENT".
    """

    kind: str
    index: int
    intended_s: float
    sent_s: float
    done_s: float
    status: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """From the intended moment to the outcome."""
        return self.done_s - self.intended_s

    def record(self, start_s: float) -> dict[str, Any]:
        """The sample as a journal record, times relative to the run's start."""
        return {
            "kind": self.kind,
            "at_s": round(self.done_s - start_s, 6),
            "index": self.index,
            "intended_s": round(self.intended_s - start_s, 6),
            "sent_s": round(self.sent_s - start_s, 6),
            "done_s": round(self.done_s - start_s, 6),
            "status": self.status,
            **self.fields,
        }


class Caller(Protocol):
    """Sends one request and says how it ended. Lives on the load's own event loop."""

    async def open(self) -> None:
        """Connects. Called once, before the first request."""

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """Sends request `index` now; returns its status and what is worth keeping. Failures are statuses, not
        exceptions."""
        ...

    async def close(self) -> None:
        """Disconnects. Called once, after the last outcome."""


Ended = Callable[[str, dict[str, Any]], None]
"""Told once the status of a request and what is worth keeping."""


@runtime_checkable
class Sender(Protocol):
    """A caller that needs no task for each request: at thousands of requests a second, tasks cost as much as
    the requests."""

    def send(self, index: int, intended_s: float, ended: Ended) -> None:
        """Sends request `index` now; `ended` is told how it ended, on the event loop, perhaps at once."""


@dataclass(frozen=True)
class Stream:
    """One kind of request at its own pace."""

    kind: str
    arrivals: Iterator[float]
    caller: Caller


@dataclass(frozen=True)
class Lateness:
    """How well the generator kept to its schedule."""

    requests: int
    late: int
    worst_s: float

    @property
    def late_share(self) -> float:
        """Share of the requests that left more than LATE_AFTER_S after their moment; 0 of none."""
        return self.late / self.requests if self.requests else 0.0


def lateness(samples: Sequence[Sample], *, late_after_s: float = LATE_AFTER_S) -> Lateness:
    """Counts the requests that left later than scheduled."""
    delays = [sample.sent_s - sample.intended_s for sample in samples]
    return Lateness(len(delays), sum(delay > late_after_s for delay in delays), max(delays, default=0.0))


class OpenLoop:
    """Sends every stream on schedule from one thread with its own event loop.

    duration_s: stop by itself after this long; None: until `stop`, or until the arrivals end. drain_s: how
    long what is in flight at the end may take. start_s: monotonic moment that the arrivals count from, known
    after `start`.
    """

    def __init__(
        self, streams: Sequence[Stream], *, duration_s: float | None = None, drain_s: float = 10.0
    ) -> None:
        self._streams = tuple(streams)
        self._duration_s = duration_s
        self._drain_s = drain_s
        self._samples: list[Sample] = []
        self._unended = 0
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="open-loop-load", daemon=True)
        self.start_s = 0.0

    @property
    def samples(self) -> list[Sample]:
        """What has ended so far, in the order of the outcomes; a copy."""
        return self._samples.copy()

    def start(self) -> None:
        """Connects and begins. Raises what the callers raised while connecting."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def join(self) -> list[Sample]:
        """Waits for a load of fixed duration; returns its samples."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.samples

    def stop(self) -> list[Sample]:
        """Sends nothing more, waits up to `drain_s` for what is in flight; returns all samples. Safe to
        repeat."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.samples

    def _run(self) -> None:
        # A full collection of a big heap stops the world for tens of milliseconds: what was there before is
        # frozen, and what the load itself makes holds no cycles.
        gc.freeze()
        collecting = gc.isenabled()
        gc.disable()
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            if collecting:
                gc.enable()
            gc.unfreeze()
            self._ready.set()

    async def _main(self) -> None:
        opened: list[Caller] = []
        try:
            for caller in {id(stream.caller): stream.caller for stream in self._streams}.values():
                await caller.open()
                opened.append(caller)
            self.start_s = time.monotonic()
            self._ready.set()
            await asyncio.gather(*(self._drive(stream, self.start_s) for stream in self._streams))
        finally:
            for caller in opened:
                await caller.close()

    async def _drive(self, stream: Stream, start_s: float) -> None:
        flying: set[asyncio.Task[None]] = set()
        sender = stream.caller if isinstance(stream.caller, Sender) else None
        burst = 0
        for index, offset_s in enumerate(stream.arrivals):
            if self._duration_s is not None and offset_s >= self._duration_s:
                break
            intended_s = start_s + offset_s
            # Sleeps in short pieces, so that stop() is heard between two rare requests.
            while (wait_s := intended_s - time.monotonic()) > 0 and not self._stopping.is_set():
                burst = 0
                await asyncio.sleep(min(wait_s, 0.1))
            if self._stopping.is_set():
                break
            if sender is not None:
                self._send(sender, stream.kind, index, intended_s)
            else:
                task = asyncio.create_task(self._one(stream, index, intended_s))
                flying.add(task)
                task.add_done_callback(flying.discard)
            burst += 1
            if burst % 16 == 0:
                # Behind schedule: let the requests really leave, and the answers in, between two batches.
                await asyncio.sleep(0)
        end_s = time.monotonic() + self._drain_s
        while sender is not None and self._unended and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        if flying:
            _, hanging = await asyncio.wait(flying, timeout=self._drain_s)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    def _send(self, sender: Sender, kind: str, index: int, intended_s: float) -> None:
        sent_s = time.monotonic()
        self._unended += 1

        def ended(status: str, fields: dict[str, Any]) -> None:
            self._unended -= 1
            self._samples.append(Sample(kind, index, intended_s, sent_s, time.monotonic(), status, fields))

        sender.send(index, intended_s, ended)

    async def _one(self, stream: Stream, index: int, intended_s: float) -> None:
        sent_s = time.monotonic()
        try:
            status, fields = await stream.caller.call(index, intended_s)
        except asyncio.CancelledError:
            status, fields = "CANCELLED", {}
        self._samples.append(Sample(stream.kind, index, intended_s, sent_s, time.monotonic(), status, fields))


async def closed_loop(
    caller: Caller, *, concurrency: int, duration_s: float, requests_max: int = 1 << 62
) -> list[Sample]:
    """Keeps `concurrency` requests in flight for `duration_s` seconds, or until so many were sent: how a
    capacity is measured, not a latency."""
    samples: list[Sample] = []
    numbers = iter(range(requests_max))
    end_s = time.monotonic() + duration_s

    async def worker() -> None:
        while (now_s := time.monotonic()) < end_s:
            index = next(numbers, None)
            if index is None:
                break
            status, fields = await caller.call(index, now_s)
            samples.append(Sample("read", index, now_s, now_s, time.monotonic(), status, fields))

    await caller.open()
    try:
        await asyncio.gather(*(worker() for _ in range(concurrency)))
    finally:
        await caller.close()
    return samples


class SearchFlood:
    """Searches at a high rate over plain connections: no retry, no hedging, so that offered means offered.

    addresses: one connection each, used in turn. requests: serialised SearchRequests, used in turn.
    deadline_ms: counts from the intended moment; it goes out as gRPC's deadline and as absolute metadata.
    """

    method = SEARCH_METHOD

    def __init__(self, addresses: Sequence[str], requests: Sequence[bytes], *, deadline_ms: float) -> None:
        if not addresses or not requests:
            raise ValueError("a flood needs at least one address and one request")
        self._addresses = tuple(addresses)
        self._requests = tuple(requests)
        self._deadline_s = deadline_ms / 1000.0
        self._connections: list[Connection] = []
        self._headers: list[bytes] = []
        # Wall and monotonic clock drift apart by microseconds over a drill; one offset serves all requests.
        self._wall_offset_s = time.time() - time.monotonic()

    async def open(self) -> None:
        """Connects to every address. Raises OSError, or TimeoutError where one does not answer within 10
        s."""
        for address in self._addresses:
            self._connections.append(await Connection.connect(address))
            self._headers.append(request_headers(self.method, address))

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One call, see `send`."""
        future: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()

        def ended(status: str, fields: dict[str, Any]) -> None:
            if not future.done():
                future.set_result((status, fields))

        self.send(index, intended_s, ended)
        return await future

    def send(self, index: int, intended_s: float, ended: Ended) -> None:
        """One call; the answer is kept as bytes under "body" until `decode`."""
        deadline_s = intended_s + self._deadline_s
        left_us = int((deadline_s - time.monotonic()) * 1e6)
        if left_us <= 0:
            ended(UNSENT, {})
            return
        turn = index % len(self._connections)
        headers = b"".join(
            (
                self._headers[turn],
                header("grpc-timeout", f"{left_us}u"),
                header(DEADLINE_METADATA, str(int((deadline_s + self._wall_offset_s) * 1e6))),
            )
        )
        request = self._requests[index % len(self._requests)]

        def answered(answer: Answer) -> None:
            if answer.status == OK:
                ended(OK, {"body": answer.body})
            else:
                ended(answer.status, {"detail": answer.message})

        try:
            self._connections[turn].send(headers, request, deadline_s, answered)
        except WireError as error:
            ended("UNAVAILABLE", {"detail": str(error)})

    async def close(self) -> None:
        """Closes the connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._headers.clear()


class RecommendFlood(SearchFlood):
    """The same for recommendations. requests: serialised RecommendRequests."""

    method = RECOMMEND_METHOD


def tier_name(tier: ranking_pb2.Tier.ValueType) -> str:
    """A wire tier as the word used everywhere else: "late" for TIER_LATE."""
    return ranking_pb2.Tier.Name(tier).removeprefix("TIER_").lower()


def receipt_fields(receipt: ranking_pb2.Receipt) -> dict[str, Any]:
    """What the history keeps of a receipt."""
    return {
        "tier": tier_name(receipt.tier),
        "depth": receipt.depth,
        "expected_ndcg": round(receipt.expected_ndcg, 6),
        "reason": ranking_pb2.Reason.Name(receipt.reason).removeprefix("REASON_").lower(),
        "replica": receipt.replica,
        "epoch": receipt.epoch,
        "applied_sequence": receipt.applied_sequence,
        "staleness_ms": receipt.staleness_ms,
        "budget_ms": round(receipt.budget_us / 1000.0, 3),
        "ranked_ms": round(receipt.timings.total_us / 1000.0, 3),
    }


def decode(samples: Sequence[Sample], *, products: bool = False) -> None:
    """Replaces the kept answers of a flood by the fields of their receipts, in place.

    products: keeps also "product_ids", best first.
    """
    for sample in samples:
        body = sample.fields.pop("body", None)
        if body is not None:
            kind = (
                ranking_pb2.RecommendResponse if sample.kind == RECOMMENDATION else ranking_pb2.SearchResponse
            )
            response = kind.FromString(body)
            sample.fields.update(receipt_fields(response.receipt))
            if products:
                sample.fields["product_ids"] = [result.product_id for result in response.results]
