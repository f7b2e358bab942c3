"""The synchronous client."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from muster.client import errors
from muster.client.budgets import HedgeBudget, HedgeDelay, RetryBudget
from muster.client.events import apply_request
from muster.client.reads import Read, Replica, Replicas
from muster.client.requests import Deadline, Priority, get_request, rerank_request, search_request
from muster.client.settings import ClientSettings, parse_endpoints, write_target
from muster.client.writes import Write, resend_pause_s
from muster.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)

Response = TypeVar("Response")


@dataclass(frozen=True)
class ReplicaStatus:
    """What one replica said of itself. Exactly one of status and error is set."""

    endpoint: str
    status: admin_pb2.StatusResponse | None
    error: errors.MusterError | None


class _Connections:
    """All channels of one client in one process. Channels connect when first used."""

    def __init__(self, endpoints: Sequence[str], settings: ClientSettings) -> None:
        self.pid = os.getpid()
        self._channels: list[grpc.Channel] = []
        self._settings = settings
        self._endpoints = endpoints
        self._lock = threading.Lock()
        self._writes: Any = None
        self._status: dict[str, Any] = {}
        self.search: dict[str, Any] = {}
        self.rerank: dict[str, Any] = {}
        self.get: dict[str, Any] = {}
        self.watch: dict[str, Any] = {}
        for endpoint in endpoints:
            channel = self._open(endpoint, settings.read_options())
            ranking = ranking_pb2_grpc.RankingServiceStub(channel)
            catalogue = catalogue_pb2_grpc.CatalogueServiceStub(channel)
            self.search[endpoint], self.rerank[endpoint] = ranking.Search, ranking.Rerank
            self.get[endpoint], self.watch[endpoint] = catalogue.Get, catalogue.Watch

    def _open(self, target: str, options: Sequence[tuple[str, int | str]]) -> grpc.Channel:
        channel = grpc.insecure_channel(target, options=list(options))
        self._channels.append(channel)
        return channel

    def apply(self) -> Any:
        """The write channel's Apply; opened at the first write, as a reader needs none."""
        with self._lock:
            if self._writes is None:
                channel = self._open(
                    write_target(self._endpoints), self._settings.write_options(self._endpoints)
                )
                self._writes = catalogue_pb2_grpc.CatalogueServiceStub(channel).Apply
            return self._writes

    def status(self, endpoint: str) -> Any:
        with self._lock:
            if endpoint not in self._status:
                channel = self._open(endpoint, self._settings.status_options())
                stub = admin_pb2_grpc.AdminServiceStub(channel)
                self._status[endpoint] = stub.Status
            return self._status[endpoint]

    def close(self) -> None:
        with self._lock:
            for channel in self._channels:
                channel.close()


class Client:
    """Calls a Muster service. Thread-safe; use one for the whole process, and close it at the end.

    endpoints: every replica as "host:port", in a list or joined by commas. Reads go to any of them, writes to
        the primary, which is found through health checks.
    A client made before a fork may be used after it, in parent and child, provided that it was not used
    before.

    >>> with Client("127.0.0.1:50051,127.0.0.1:50052") as client:  # doctest: +SKIP
    ...     answer = client.search("usb c cable", deadline_ms=50)
    ...     print(answer.receipt.tier, [result.title for result in answer.results])
    """

    def __init__(self, endpoints: str | Sequence[str], *, settings: ClientSettings | None = None) -> None:
        self.endpoints = parse_endpoints(endpoints)
        self.settings = settings or ClientSettings()
        self._replicas = Replicas(self.endpoints)
        self._retries = RetryBudget(self.settings.retry_tokens_max, self.settings.retry_token_ratio)
        self._hedges = HedgeBudget(self.settings.hedge_share, self.settings.hedge_burst)
        self._hedge_delay = HedgeDelay(self.settings.hedge_after_ms)
        self._lock = threading.Lock()
        self._closed = False
        self._connections: _Connections | None = None

    def close(self) -> None:
        """Closes all connections; calls under way end as cancelled. May be called twice."""
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, None
        if connections is not None and connections.pid == os.getpid():
            connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- reads ----------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        deadline_ms: float | None = None,
        filter: ranking_pb2.Filter | None = None,
        page_size: int = 0,
        offset: int = 0,
        facets: Iterable[str] = (),
        min_sequence: int = 0,
        explain: bool = False,
        priority: Priority | None = None,
    ) -> ranking_pb2.SearchResponse:
        """Finds and orders products for a query, as well as the deadline allows.

        deadline_ms: milliseconds until the answer is useless; None: the settings' default.
        priority: None: what a gateway says in metadata, else the default.
        The other arguments are the fields of SearchRequest; 0 and empty mean absent.
        Raises: MusterError.
        """
        request = search_request(
            query,
            filter=filter,
            page_size=page_size,
            offset=offset,
            facets=facets,
            min_sequence=min_sequence,
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.SearchResponse = self._read("search", request, deadline_ms)
        return response

    def rerank(
        self,
        query: str,
        product_ids: Iterable[str],
        *,
        deadline_ms: float | None = None,
        page_size: int = 0,
        min_sequence: int = 0,
        explain: bool = False,
        priority: Priority | None = None,
    ) -> ranking_pb2.RerankResponse:
        """Orders the caller's candidates. Arguments and errors as in `search`."""
        request = rerank_request(
            query,
            product_ids,
            page_size=page_size,
            min_sequence=min_sequence,
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.RerankResponse = self._read("rerank", request, deadline_ms)
        return response

    def get(
        self, product_id: str, *, min_sequence: int = 0, deadline_ms: float | None = None
    ) -> catalogue_pb2.GetResponse:
        """Reads one product. Raises: NotFound, or another MusterError."""
        request = get_request(product_id, min_sequence=min_sequence)
        response: catalogue_pb2.GetResponse = self._read("get", request, deadline_ms)
        return response

    def watch(self, from_sequence: int = 1) -> Iterator[catalogue_pb2.SequencedEvent]:
        """Yields committed events from a sequence on, then new ones as they commit, without gaps or doubles.

        Goes on at another replica when one fails; ends when the generator or the client is closed.
        Raises: MusterError where no replica is to blame, such as InvalidRequest.
        """
        wanted = max(1, from_sequence)
        failures = 0
        while True:
            connections = self._connected()
            replica = self._replicas.order(time.monotonic())[0]
            request = catalogue_pb2.WatchRequest(from_sequence=wanted)
            stream = connections.watch[replica.endpoint](request)
            try:
                for response in stream:
                    failures = 0
                    if response.event.sequence == wanted:
                        wanted += 1
                        self._replicas.answered(replica)
                        yield response.event
                # A server ends the stream only when it leaves.
                self._replicas.failed(replica, time.monotonic())
            except grpc.RpcError as error:
                if self._closed:
                    return
                self._replicas.failed(replica, time.monotonic())
                if error.code() not in errors.RETRYABLE | {grpc.StatusCode.RESOURCE_EXHAUSTED}:
                    raise errors.translate(error, endpoint=replica.endpoint) from error
            finally:
                stream.cancel()
            failures += 1
            time.sleep(resend_pause_s(self.settings, failures))

    def status(self, *, deadline_ms: float = 1_000.0) -> list[ReplicaStatus]:
        """Asks every replica for its status, all at once. One entry for each endpoint, in their order."""
        deadline = Deadline.after(deadline_ms)
        connections = self._connected()
        calls = [
            connections.status(endpoint).future(
                admin_pb2.StatusRequest(), timeout=deadline.left_s(), metadata=deadline.metadata()
            )
            for endpoint in self.endpoints
        ]
        found = []
        for endpoint, call in zip(self.endpoints, calls, strict=True):
            try:
                found.append(ReplicaStatus(endpoint, call.result(), None))
            except grpc.FutureCancelledError:
                found.append(ReplicaStatus(endpoint, None, errors.Cancelled("the client was closed")))
            except grpc.RpcError as error:
                found.append(ReplicaStatus(endpoint, None, errors.translate(error, endpoint=endpoint)))
        return found

    def _read(self, method: str, request: Any, deadline_ms: float | None) -> Any:
        budget_ms = self.settings.deadline_ms if deadline_ms is None else deadline_ms
        deadline = Deadline.after(budget_ms)
        connections = self._connected()
        stubs: dict[str, Any] = getattr(connections, method)
        done: queue.SimpleQueue[tuple[Replica, float, Any]] = queue.SimpleQueue()
        calls: list[Any] = []
        failure: tuple[grpc.RpcError, Replica] | None = None
        read = Read(
            replicas=self._replicas,
            settings=self.settings,
            retries=self._retries,
            hedges=self._hedges,
            hedge_after_s=self._hedge_delay.delay_ms(method, budget_ms) / 1000,
        )

        def send(replica: Replica) -> None:
            started = time.monotonic()
            call = stubs[replica.endpoint].future(
                request, timeout=max(0.0, deadline.left_s()), metadata=deadline.metadata()
            )
            calls.append(call)
            call.add_done_callback(lambda ended: done.put((replica, started, ended)))

        try:
            send(read.begin(time.monotonic()))
            while True:
                now = time.monotonic()
                wake_at = read.wake_at_s()
                # With a sending under way its own deadline ends the wait; the margin is for a late callback.
                limit = deadline.monotonic_s + (0.1 if read.pending else 0.0)
                try:
                    replica, started, call = done.get(timeout=max(0.0, min(wake_at or limit, limit) - now))
                except queue.Empty:
                    now = time.monotonic()
                    if now >= limit:
                        read.expired(now)
                        break
                    again = read.wake(now)
                    if again is not None and deadline.left_s() > 0:
                        send(again)
                    continue
                now = time.monotonic()
                try:
                    response = call.result()
                except grpc.FutureCancelledError as error:
                    raise errors.Cancelled("the client was closed during the call") from error
                except grpc.RpcError as error:
                    retryable = error.code() in errors.RETRYABLE
                    if failure is None or failure[0].code() in errors.RETRYABLE:
                        failure = (error, replica)
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and deadline.left_s() <= 0:
                        read.expired(now)
                        break
                    again = read.failed(replica, now, retryable=retryable)
                    if again is not None:
                        send(again)
                    if read.over:
                        break
                    continue
                if len(calls) == 1:
                    self._hedge_delay.answered(method, budget_ms, (now - started) * 1000)
                read.answered(replica, now)
                return response
        except ValueError as error:
            raise self._closed_meanwhile(error) from error
        finally:
            for call in calls:
                call.cancel()
        if failure is None:
            raise errors.DeadlineExceeded(f"no answer within {budget_ms:g} ms from {len(calls)} replica(s)")
        raise errors.translate(failure[0], endpoint=failure[1].endpoint) from failure[0]

    # -- writes ----------------------------------------------------------

    def apply(
        self,
        events: catalogue_pb2.Event | Iterable[catalogue_pb2.Event],
        *,
        deadline_ms: float | None = None,
    ) -> catalogue_pb2.ApplyResponse:
        """Appends events to the log as one batch, on whichever replica is the primary by then.

        Events without an `event_id` are given one, in place. Where an outcome is unknown the same events are
        sent again until the deadline; their ids keep them from being applied twice. After an error with
        the `outcome` "unknown" the caller may do the same.
        deadline_ms: None: the settings' default for writes.
        Raises: MusterError.
        """
        request = apply_request(events)
        deadline = Deadline.after(self.settings.write_deadline_ms if deadline_ms is None else deadline_ms)
        write = Write(self.settings, deadline.budget_ms)
        send = self._connected().apply()
        while True:
            try:
                response: catalogue_pb2.ApplyResponse = send(
                    request,
                    timeout=max(0.0, deadline.left_s()),
                    metadata=deadline.metadata(),
                    wait_for_ready=True,
                )
                return response
            except grpc.RpcError as error:
                pause_s = write.failed(error, deadline.left_s())
            except ValueError as error:
                raise self._closed_meanwhile(error) from error
            time.sleep(pause_s)

    # -- connections ----------------------------------------------------------

    def _closed_meanwhile(self, error: ValueError) -> Exception:
        """What a ValueError of grpc means: it says so when a channel was closed between two lines of ours."""
        return errors.ClientClosed("the client was closed during the call") if self._closed else error

    def _connected(self) -> _Connections:
        with self._lock:
            if self._closed:
                raise errors.ClientClosed("the client is closed; make a new one")
            if self._connections is None or self._connections.pid != os.getpid():
                self._connections = _Connections(self.endpoints, self.settings)
            return self._connections
