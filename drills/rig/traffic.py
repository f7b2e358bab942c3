"""What an application sends, through the client it would use: searches of real queries, price and stock
changes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drills.journal import Journal
from drills.rig.load import DEADLINE_METADATA, OK, OpenLoop, Sample, receipt_fields
from muster.client import AsyncClient, ClientSettings, Credentials, MusterError, Session, patch
from muster.v1 import ranking_pb2, ranking_pb2_grpc

SESSION = "shopper"
"""How the history names the session that reads and writes share."""

SKEWED_CALLS = 20
"""Calls of a caller with a wrong clock on one connection."""

WATCH_PERIOD_S = 0.1
"""Between two questions on a watched connection."""

TRUST_PERIOD_S = 0.02
"""Between two looks at what the client knows of the replicas."""

PROCESS_PERIOD_S = 1.0
"""Between two questions which process a replica of a running service is."""

MEMORY_PERIOD_S = 0.25
"""Between two looks at the replicas' memory."""

_SESSION_EVERY = 5


class ClientReads:
    """Searches in turn over the queries, hedged and retried as the client's settings say.

    deadline_ms: counts from the moment of sending; the history measures from the intended one. session: what
    every fifth search reads in, so that it must see what was written in it. settings: None: the defaults.
    products: whether the history keeps the query and what was found.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        queries: Sequence[str],
        *,
        deadline_ms: float,
        session: Session | None = None,
        settings: ClientSettings | None = None,
        products: bool = False,
    ) -> None:
        self._session = session
        self._settings = settings
        self._products = products
        self._addresses = list(addresses)
        self._queries = tuple(queries)
        self._deadline_ms = deadline_ms
        self._client: AsyncClient | None = None

    async def open(self) -> None:
        """Makes the client; it connects with the first call."""
        self._client = AsyncClient(self._addresses, settings=self._settings)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search; the status of a failure is the name of the client's error."""
        assert self._client is not None
        query = self._queries[index % len(self._queries)]
        session = self._session if index % _SESSION_EVERY == 0 else None
        told: dict[str, Any] = {} if session is None else {"session": SESSION}
        try:
            answer = await self._client.search(query, deadline_ms=self._deadline_ms, session=session)
        except MusterError as error:
            return type(error).__name__, {"detail": str(error), **told}
        if self._products:
            told |= {"query": query, "product_ids": [result.product_id for result in answer.results]}
        return OK, {**receipt_fields(answer.receipt), **told}

    def sendings(self) -> tuple[int, int]:
        """How many reads the client has begun, and how often it has sent them in all."""
        return (0, 0) if self._client is None else self._client.sendings()

    def mistrusted(self) -> list[str]:
        """The addresses of the replicas that the client spares its reads at the moment."""
        return [] if self._client is None else self._client.mistrusted()

    async def close(self) -> None:
        """Closes the client."""
        assert self._client is not None
        await self._client.close()


class ClientWrites:
    """Changes price and stock of the products in turn, one event a call, each with an event id of its own.

    prefix: of the event ids; unique to a run, so that the log tells its runs apart. session: what all of them
    write in. settings: the client's; None: its defaults.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        product_ids: Sequence[str],
        *,
        deadline_ms: float,
        prefix: str,
        session: Session | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._addresses = list(addresses)
        self._product_ids = tuple(product_ids)
        self._deadline_ms = deadline_ms
        self._prefix = prefix
        self._client: AsyncClient | None = None

    async def open(self) -> None:
        """Makes the client; it connects with the first call."""
        self._client = AsyncClient(self._addresses, settings=self._settings)

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One write. Where the `outcome` of a failure is unknown, the event may be in the log or not."""
        assert self._client is not None
        event_id = f"{self._prefix}-{index}"
        product_id = self._product_ids[index % len(self._product_ids)]
        event = patch(product_id, price=1.0 + index / 100, stock=index, event_id=event_id)
        told = {"event_id": event_id} if self._session is None else {"event_id": event_id, "session": SESSION}
        try:
            answer = await self._client.apply(event, deadline_ms=self._deadline_ms, session=self._session)
        except MusterError as error:
            return type(error).__name__, {
                **told,
                "outcome": error.outcome,
                "reason": error.reason,
                "detail": str(error),
            }
        return OK, {
            **told,
            "sequence": answer.sequence,
            "epoch": answer.epoch,
            "duplicates": answer.duplicates,
        }

    async def close(self) -> None:
        """Closes the client."""
        assert self._client is not None
        await self._client.close()


class ReplicaReads:
    """Searches at each replica in turn, past the client: what a single one answers, and how stale it says it
    is.

    addresses: by the replicas' names. wanted: tells the sequence that the next search must see, whoever is
    asked; 0: any.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        queries: Sequence[str],
        *,
        deadline_ms: float,
        wanted: Callable[[], int] = lambda: 0,
    ) -> None:
        self._addresses = tuple(addresses.items())
        self._queries = tuple(queries)
        self._deadline_ms = deadline_ms
        self._wanted = wanted
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[Any] = []

    async def open(self) -> None:
        """Makes a channel to each; it connects with the first call."""
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        for _, address in self._addresses:
            channel = Credentials.from_environment().aio_channel(
                address, [*quick, ("grpc.use_local_subchannel_pool", 1)]
            )
            self._channels.append(channel)
            self._stubs.append(ranking_pb2_grpc.RankingServiceStub(channel))

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search at one replica; `asked` names it, whoever answers. A failure is told as gRPC's."""
        turn, number = index % len(self._stubs), index // len(self._stubs)
        request = ranking_pb2.SearchRequest(
            query=self._queries[number % len(self._queries)], min_sequence=self._wanted()
        )
        told = {"asked": self._addresses[turn][0], "min_sequence": request.min_sequence}
        try:
            answer = await self._stubs[turn].Search(request, timeout=self._deadline_ms / 1000.0)
        except grpc.RpcError as error:
            return error.code().name, {"detail": error.details(), **told}
        return OK, {**receipt_fields(answer.receipt), **told}

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()


class SkewedReads:
    """Searches at each replica in turn by a caller whose wall clock is wrong.

    addresses: by the replicas' names. skew_s: tells how much it is ahead now, seconds. Every so many calls a
    new connection is made, so that some replicas see the caller for the first time.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        queries: Sequence[str],
        *,
        deadline_ms: float,
        skew_s: Callable[[], float],
    ) -> None:
        self._addresses = tuple(addresses.items())
        self._queries = tuple(queries)
        self._deadline_s = deadline_ms / 1000.0
        self._skew_s = skew_s
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[Any] = []
        self._replaced: list[grpc.aio.Channel] = []

    async def open(self) -> None:
        """Makes a channel to each; it connects with the first call."""
        for _, address in self._addresses:
            self._channels.append(self._channel(address))
            self._stubs.append(ranking_pb2_grpc.RankingServiceStub(self._channels[-1]))

    def _channel(self, address: str) -> grpc.aio.Channel:
        return Credentials.from_environment().aio_channel(address, [("grpc.use_local_subchannel_pool", 1)])

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        """One search at one replica; its deadline goes out as gRPC's and by the caller's own clock."""
        turn, number = index % len(self._stubs), index // len(self._stubs)
        name, address = self._addresses[turn]
        if number and number % SKEWED_CALLS == 0:
            self._replaced.append(self._channels[turn])
            self._channels[turn] = self._channel(address)
            self._stubs[turn] = ranking_pb2_grpc.RankingServiceStub(self._channels[turn])
        request = ranking_pb2.SearchRequest(query=self._queries[number % len(self._queries)])
        skew_s = self._skew_s()
        unix_us = int((time.time() + skew_s + self._deadline_s) * 1e6)
        told = {"asked": name, "skew_s": skew_s, "call": number % SKEWED_CALLS}
        try:
            answer = await self._stubs[turn].Search(
                request, timeout=self._deadline_s, metadata=((DEADLINE_METADATA, str(unix_us)),)
            )
        except grpc.RpcError as error:
            return error.code().name, {"detail": error.details(), **told}
        return OK, {**receipt_fields(answer.receipt), **told}

    async def close(self) -> None:
        """Closes the channels."""
        for channel in (*self._channels, *self._replaced):
            await channel.close()


class ConnectionWatch:
    """Records whether a client's connection to each replica stands, the moment that gRPC itself knows.

    The connections are in use, by a question now and then: of an idle one gRPC takes up to a second longer to
    know, for it sends at most one ping a second unless data came in between.

    addresses: by the replicas' names. settings: the client's. A record of kind `connection` for each change:
    replica, ready.
    """

    def __init__(self, addresses: Mapping[str, str], settings: ClientSettings, journal: Journal) -> None:
        self._addresses = dict(addresses)
        self._settings = settings
        self._journal = journal
        self._channels: list[grpc.Channel] = []
        self._ended = threading.Event()
        self._asking = threading.Thread(target=self._ask, name="connection-watch", daemon=True)

    def start(self) -> None:
        """Connects, and watches from now on."""
        for name, address in self._addresses.items():
            channel = Credentials.from_environment().channel(address, self._settings.read_options())
            channel.subscribe(self._noting(name), try_to_connect=True)
            self._channels.append(channel)
        self._asking.start()

    def _noting(self, name: str) -> Callable[[grpc.ChannelConnectivity], None]:
        told = False

        def note(state: grpc.ChannelConnectivity) -> None:
            nonlocal told
            ready = state is grpc.ChannelConnectivity.READY
            if ready is not told and not self._ended.is_set():
                told = ready
                self._journal.write("connection", replica=name, ready=ready)

        return note

    def _ask(self) -> None:
        stubs = [health_pb2_grpc.HealthStub(channel) for channel in self._channels]
        while not self._ended.wait(WATCH_PERIOD_S):
            for stub in stubs:
                # What it answers, and whether it does, is of no interest.
                stub.Check.future(health_pb2.HealthCheckRequest(), timeout=1.0)

    def stop(self) -> None:
        """Watches no more. Safe to call twice."""
        self._ended.set()
        if self._asking.ident is not None:
            self._asking.join()
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()


class TrustWatch:
    """Records which replicas the client spares its reads: what it knows of them, however it came to know.

    addresses: by the replicas' names. A record of kind `trust` for each change: replica, trusted.
    """

    def __init__(self, addresses: Mapping[str, str], reads: ClientReads, journal: Journal) -> None:
        self._names = {address: name for name, address in addresses.items()}
        self._reads = reads
        self._journal = journal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="trust-watch", daemon=True)

    def start(self) -> None:
        """Looks from now on."""
        self._thread.start()

    def _look(self) -> None:
        known: set[str] = set()
        while not self._ended.wait(TRUST_PERIOD_S):
            mistrusted = {self._names[address] for address in self._reads.mistrusted()}
            for name in sorted(mistrusted ^ known):
                self._journal.write("trust", replica=name, trusted=name not in mistrusted)
            known = mistrusted

    def stop(self) -> None:
        """Looks no more. Safe to call twice."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()


class MemoryWatch:
    """Records now and then how much memory each replica takes, and which process it is.

    pids: tells the processes, by the replicas' names. A record of kind `memory` each: replica, pid,
    rss_bytes; of a process that is not there: no rss_bytes.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]], journal: Journal) -> None:
        self._pids = pids
        self._journal = journal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory-watch", daemon=True)

    def start(self) -> None:
        """Looks from now on."""
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(MEMORY_PERIOD_S):
            for name, pid in self._pids().items():
                told: dict[str, Any] = {"replica": name, "pid": pid}
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    if process.status() != psutil.STATUS_ZOMBIE:
                        told["rss_bytes"] = process.memory_info().rss
                self._journal.write("memory", **told)

    def stop(self) -> None:
        """Looks no more. Safe to call twice."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()


class ProcessWatch(MemoryWatch):
    """The same of a running service, whose memory is not to be seen: which process each replica is. A replica
    that does not say is left out of a look."""

    def _look(self) -> None:
        while not self._ended.wait(PROCESS_PERIOD_S):
            with contextlib.suppress(grpc.RpcError):
                for name, pid in self._pids().items():
                    self._journal.write("process", replica=name, pid=pid)


class Watch(Protocol):
    """Something that is recorded beside the requests."""

    def start(self) -> None:
        """Begins."""

    def stop(self) -> None:
        """Ends. Safe to call twice."""


class RecordedLoad:
    """An open-loop load whose requests are written into the history once it has ended.

    watches: what is recorded meanwhile.
    """

    def __init__(self, loop: OpenLoop, journal: Journal, watches: Sequence[Watch] = ()) -> None:
        self._loop = loop
        self._journal = journal
        self._watches = tuple(watches)
        self._stopped = False

    def start(self) -> None:
        """Connects and begins."""
        self._loop.start()
        for watch in self._watches:
            watch.start()

    @property
    def samples(self) -> list[Sample]:
        """What has ended so far."""
        return self._loop.samples

    def stop(self) -> None:
        """Ends the load and writes every request into the history."""
        if self._stopped:
            return
        self._stopped = True
        for watch in self._watches:
            watch.stop()
        self._journal.extend(sample.record(self._journal.start_s) for sample in self._loop.stop())
