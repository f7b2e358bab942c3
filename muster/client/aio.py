"""The asyncio client: the same calls and the same behaviour as the synchronous one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from muster.client import errors
from muster.client.credentials import Credentials
from muster.client.events import apply_request
from muster.client.feedback_events import record_request
from muster.client.operation import ReplicaStatus, out_of_sight, primary_endpoint
from muster.client.reads import Attempt, Reads
from muster.client.requests import (
    Deadline,
    Priority,
    get_request,
    recommend_request,
    rerank_request,
    search_request,
)
from muster.client.sessions import Session, min_sequence_for, shown_sequence
from muster.client.settings import ClientSettings, parse_endpoints, write_target
from muster.client.writes import LOOK_AFTER_S, Write, look_after_s, resend_pause_s
from muster.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)


class AsyncClient:
    """Calls a Muster service from one event loop. See `Client` for the arguments and what the calls do.

    A call that is cancelled (task cancelled, `asyncio.timeout`) leaves the server at once.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        settings: ClientSettings | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.endpoints = parse_endpoints(endpoints)
        self.settings = settings or ClientSettings()
        self.credentials = Credentials.from_environment() if credentials is None else credentials
        self.credentials.check(self.endpoints)
        self._all_reads = Reads(self.endpoints, self.settings)
        self._closed = False
        self._channels: list[grpc.aio.Channel] = []
        self._reads: dict[str, dict[str, Any]] = {}
        self._writes: dict[str, Any] = {}
        self._admin: dict[str, Any] = {}
        self._looks: dict[str, asyncio.Task[ReplicaStatus]] = {}
        self._looked_s = -LOOK_AFTER_S

    async def close(self) -> None:
        """Closes all connections; calls under way end as cancelled. May be called twice."""
        self._closed = True
        for look in self._looks.values():
            look.cancel()
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def mistrusted(self) -> list[str]:
        """As `Client.mistrusted`."""
        return self._all_reads.replicas.mistrusted()

    def sendings(self) -> tuple[int, int]:
        """As `Client.sendings`."""
        return self._all_reads.sendings.counts()

    # -- reads ----------------------------------------------------------

    async def search(
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
        session: Session | None = None,
    ) -> ranking_pb2.SearchResponse:
        """As `Client.search`."""
        request = search_request(
            query,
            filter=filter,
            page_size=page_size,
            offset=offset,
            facets=facets,
            min_sequence=min_sequence_for(session, min_sequence),
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.SearchResponse = await self._read("Search", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
        return response

    async def rerank(
        self,
        query: str,
        product_ids: Iterable[str],
        *,
        deadline_ms: float | None = None,
        page_size: int = 0,
        min_sequence: int = 0,
        explain: bool = False,
        priority: Priority | None = None,
        session: Session | None = None,
    ) -> ranking_pb2.RerankResponse:
        """As `Client.rerank`."""
        request = rerank_request(
            query,
            product_ids,
            page_size=page_size,
            min_sequence=min_sequence_for(session, min_sequence),
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.RerankResponse = await self._read("Rerank", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
        return response

    async def recommend(
        self,
        history: Iterable[str | ranking_pb2.HistoryItem] = (),
        *,
        shopper_id: str = "",
        session_id: str = "",
        deadline_ms: float | None = None,
        filter: ranking_pb2.Filter | None = None,
        page_size: int = 0,
        min_sequence: int = 0,
        explain: bool = False,
        priority: Priority | None = None,
        diversity: float = 0.0,
        repeats: bool = False,
        session: Session | None = None,
    ) -> ranking_pb2.RecommendResponse:
        """As `Client.recommend`."""
        request = recommend_request(
            history,
            shopper_id=shopper_id,
            session_id=session_id,
            filter=filter,
            page_size=page_size,
            min_sequence=min_sequence_for(session, min_sequence),
            explain=explain,
            priority=priority,
            diversity=diversity,
            repeats=repeats,
        )
        response: ranking_pb2.RecommendResponse = await self._read("Recommend", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
        return response

    async def get(
        self,
        product_id: str,
        *,
        min_sequence: int = 0,
        deadline_ms: float | None = None,
        session: Session | None = None,
    ) -> catalogue_pb2.GetResponse:
        """As `Client.get`."""
        request = get_request(product_id, min_sequence=min_sequence_for(session, min_sequence))
        response: catalogue_pb2.GetResponse = await self._read("Get", request, deadline_ms)
        if session is not None:
            session.read(response.applied_sequence)
        return response

    async def watch(self, from_sequence: int = 1) -> AsyncIterator[catalogue_pb2.SequencedEvent]:
        """As `Client.watch`."""
        wanted = max(1, from_sequence)
        failures = 0
        while True:
            self._open_for_reads()
            replica = self._all_reads.replicas.order(time.monotonic())[0]
            request = catalogue_pb2.WatchRequest(from_sequence=wanted)
            stream = self._reads["Watch"][replica.endpoint](request)
            try:
                async for response in stream:
                    failures = 0
                    if response.event.sequence == wanted:
                        wanted += 1
                        self._all_reads.replicas.answered(replica, time.monotonic())
                        yield response.event
                self._all_reads.replicas.failed(replica, time.monotonic())
            except grpc.RpcError as error:
                if self._closed:
                    return
                self._all_reads.replicas.failed(replica, time.monotonic())
                if error.code() not in errors.RETRYABLE | {grpc.StatusCode.RESOURCE_EXHAUSTED}:
                    raise errors.translate(error, endpoint=replica.endpoint) from error
            except asyncio.CancelledError:
                if self._closed:
                    return
                raise
            finally:
                stream.cancel()
            failures += 1
            await asyncio.sleep(resend_pause_s(self.settings, failures))

    async def status(self, *, deadline_ms: float = 1_000.0) -> list[ReplicaStatus]:
        """As `Client.status`."""
        deadline = Deadline.after(deadline_ms)
        self._open_for_reads()

        return list(await asyncio.gather(*(self._status_of(one, deadline) for one in self.endpoints)))

    async def _status_of(self, endpoint: str, deadline: Deadline) -> ReplicaStatus:
        call = self._admin_of(endpoint).Status(admin_pb2.StatusRequest(), **deadline.of_call())
        try:
            return ReplicaStatus(endpoint, await call, None)
        except grpc.RpcError as error:
            return ReplicaStatus(endpoint, None, errors.translate(error, endpoint=endpoint))

    async def transfer_lease(self, *, deadline_ms: float = 10_000.0) -> admin_pb2.TransferLeaseResponse:
        """As `Client.transfer_lease`."""
        deadline = Deadline.after(deadline_ms)
        endpoint = primary_endpoint(await self.status(deadline_ms=deadline_ms))
        try:
            call = self._admin_of(endpoint).TransferLease
            response: admin_pb2.TransferLeaseResponse = await call(
                admin_pb2.TransferLeaseRequest(), **deadline.of_call()
            )
            return response
        except grpc.RpcError as error:
            raise errors.translate(error, endpoint=endpoint) from error

    async def _read(self, method: str, request: Any, deadline_ms: float | None) -> Any:
        deadline = Deadline.after(self.settings.deadline_ms if deadline_ms is None else deadline_ms)
        self._open_for_reads()
        stubs = self._reads[method]
        running: dict[asyncio.Task[Any], Attempt] = {}
        read = self._all_reads.read(method, deadline, request.min_sequence)

        def send(attempt: Attempt | None) -> None:
            if attempt is not None:
                call = stubs[attempt.replica.endpoint](request, **deadline.of_call(attempt.ends_s))
                running[asyncio.ensure_future(_answer(call))] = attempt

        try:
            send(read.begin(time.monotonic()))
            while not read.over:
                pause = max(0.0, read.wait_until_s() - time.monotonic())
                ended: set[asyncio.Task[Any]] = set()
                if running:
                    ended, _ = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(pause)
                if not ended:
                    send(read.wake(time.monotonic()))
                for task in ended:
                    attempt = running.pop(task)
                    if task.cancelled():
                        raise errors.Cancelled("the client was closed during the call")
                    error = task.exception()
                    if error is None:
                        response = task.result()
                        read.answered(attempt, time.monotonic(), shown_sequence(response))
                        return response
                    if not isinstance(error, grpc.RpcError):
                        raise error
                    if not read.over:
                        send(read.failed(attempt, time.monotonic(), error))
        finally:
            for task in running:
                task.cancel()
        raise read.error()

    # -- writes ----------------------------------------------------------

    async def apply(
        self,
        events: catalogue_pb2.Event | Iterable[catalogue_pb2.Event],
        *,
        deadline_ms: float | None = None,
        session: Session | None = None,
    ) -> catalogue_pb2.ApplyResponse:
        """As `Client.apply`."""
        response: catalogue_pb2.ApplyResponse = await self._write("Apply", apply_request(events), deadline_ms)
        if session is not None:
            session.wrote(response.sequence)
        return response

    async def record(
        self,
        events: feedback_pb2.FeedbackEvent | Iterable[feedback_pb2.FeedbackEvent],
        *,
        deadline_ms: float | None = None,
    ) -> feedback_pb2.RecordResponse:
        """As `Client.record`."""
        response: feedback_pb2.RecordResponse = await self._write(
            "Record", record_request(events), deadline_ms
        )
        return response

    async def _write(self, method: str, request: Any, deadline_ms: float | None) -> Any:
        deadline = Deadline.after(self.settings.write_deadline_ms if deadline_ms is None else deadline_ms)
        self._open_for_reads()
        if not self._writes:
            target = write_target(self.endpoints)
            channel = self._open(target, self.settings.write_options(self.endpoints))
            self._writes = {
                "Apply": catalogue_pb2_grpc.CatalogueServiceStub(channel).Apply,
                "Record": feedback_pb2_grpc.FeedbackServiceStub(channel).Record,
            }
        write = Write(self.settings, deadline.budget_ms)
        while True:
            try:
                call = self._writes[method](request, wait_for_ready=True, **deadline.of_call())
                return await self._written(call, deadline, write)
            except grpc.RpcError as error:
                if write.waited:
                    write.seen = self._seen()
                pause_s = write.failed(error, deadline.left_s())
            except (asyncio.CancelledError, grpc.aio.UsageError) as error:
                if self._closed:
                    raise errors.ClientClosed("the client was closed during the call") from error
                raise
            await asyncio.sleep(pause_s)

    async def _written(self, call: Any, deadline: Deadline, write: Write) -> Any:
        """As `Client` does: a write that keeps its caller waiting has the replicas asked why."""
        sending = asyncio.ensure_future(_answer(call))
        try:
            done, _ = await asyncio.wait({sending}, timeout=look_after_s(deadline.left_s()))
            if not done:
                write.waited = True
                self._look(deadline)
            return await sending
        finally:
            sending.cancel()

    def _look(self, deadline: Deadline) -> None:
        now_s = time.monotonic()
        if now_s >= self._looked_s + LOOK_AFTER_S:
            self._looked_s = now_s
            self._looks = {
                endpoint: asyncio.ensure_future(self._status_of(endpoint, deadline))
                for endpoint in self.endpoints
            }

    def _seen(self) -> str:
        silent = errors.DeadlineExceeded("it has not answered")
        return out_of_sight(
            [
                task.result()
                if task.done() and not task.cancelled()
                else ReplicaStatus(endpoint, None, silent)
                for endpoint, task in self._looks.items()
            ]
        )

    # -- connections ----------------------------------------------------------

    def _open(self, target: str, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        channel = self.credentials.aio_channel(target, options)
        self._channels.append(channel)
        return channel

    def _admin_of(self, endpoint: str) -> Any:
        """The operator's calls to one replica, whatever its health says."""
        if endpoint not in self._admin:
            channel = self._open(endpoint, self.settings.status_options())
            self._admin[endpoint] = admin_pb2_grpc.AdminServiceStub(channel)
        return self._admin[endpoint]

    def _open_for_reads(self) -> None:
        if self._closed:
            raise errors.ClientClosed("the client is closed; make a new one")
        if self._reads:
            return
        self._reads = {"Search": {}, "Rerank": {}, "Recommend": {}, "Get": {}, "Watch": {}}
        for endpoint in self.endpoints:
            channel = self._open(endpoint, self.settings.read_options())
            ranking = ranking_pb2_grpc.RankingServiceStub(channel)
            catalogue = catalogue_pb2_grpc.CatalogueServiceStub(channel)
            self._reads["Search"][endpoint] = ranking.Search
            self._reads["Recommend"][endpoint] = ranking.Recommend
            self._reads["Rerank"][endpoint] = ranking.Rerank
            self._reads["Get"][endpoint] = catalogue.Get
            self._reads["Watch"][endpoint] = catalogue.Watch


async def _answer(call: Any) -> Any:
    """Waits for one sending; cancelling the wait cancels the call."""
    try:
        return await call
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            call.cancel()
        raise
