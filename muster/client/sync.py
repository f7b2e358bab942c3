"""The synchronous client."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

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

Response = TypeVar("Response")


class _Connections:
    """All channels of one client in one process. Channels connect when first used."""

    def __init__(self, endpoints: Sequence[str], settings: ClientSettings, credentials: Credentials) -> None:
        self.pid = os.getpid()
        self._channels: list[grpc.Channel] = []
        self._credentials = credentials
        self._settings = settings
        self._endpoints = endpoints
        self._lock = threading.Lock()
        self._writes: dict[str, Any] = {}
        self._admin: dict[str, admin_pb2_grpc.AdminServiceStub] = {}
        self._looks: dict[str, Any] = {}
        self._looked_s = -LOOK_AFTER_S
        self.search: dict[str, Any] = {}
        self.rerank: dict[str, Any] = {}
        self.recommend: dict[str, Any] = {}
        self.get: dict[str, Any] = {}
        self.watch: dict[str, Any] = {}
        for endpoint in endpoints:
            channel = self._open(endpoint, settings.read_options())
            ranking = ranking_pb2_grpc.RankingServiceStub(channel)
            catalogue = catalogue_pb2_grpc.CatalogueServiceStub(channel)
            self.search[endpoint], self.rerank[endpoint] = ranking.Search, ranking.Rerank
            self.recommend[endpoint] = ranking.Recommend
            self.get[endpoint], self.watch[endpoint] = catalogue.Get, catalogue.Watch

    def _open(self, target: str, options: Sequence[tuple[str, int | str]]) -> grpc.Channel:
        channel = self._credentials.channel(target, options)
        self._channels.append(channel)
        return channel

    def write(self, method: str) -> Any:
        """The write channel's method; opened at the first write, as a reader needs none."""
        with self._lock:
            if not self._writes:
                channel = self._open(
                    write_target(self._endpoints), self._settings.write_options(self._endpoints)
                )
                self._writes = {
                    "Apply": catalogue_pb2_grpc.CatalogueServiceStub(channel).Apply,
                    "Record": feedback_pb2_grpc.FeedbackServiceStub(channel).Record,
                }
            return self._writes[method]

    def admin(self, endpoint: str) -> admin_pb2_grpc.AdminServiceStub:
        """The operator's calls to one replica, whatever its health says."""
        with self._lock:
            if endpoint not in self._admin:
                channel = self._open(endpoint, self._settings.status_options())
                self._admin[endpoint] = admin_pb2_grpc.AdminServiceStub(channel)
            return self._admin[endpoint]

    def ask_status(self, deadline: Deadline) -> dict[str, Any]:
        """Asks every replica for its status; the calls, by endpoint."""
        return {
            endpoint: self.admin(endpoint).Status.future(admin_pb2.StatusRequest(), **deadline.of_call())
            for endpoint in self._endpoints
        }

    def look(self, deadline: Deadline) -> None:
        """Asks who the primary is, unless that was asked lately."""
        now_s = time.monotonic()
        with self._lock:
            if now_s < self._looked_s + LOOK_AFTER_S:
                return
            self._looked_s = now_s
        self._looks = self.ask_status(deadline)

    def seen(self) -> str:
        """What the last look has told, as `out_of_sight` says it."""
        answered = {endpoint: call for endpoint, call in self._looks.items() if call.done()}
        return out_of_sight(
            [
                _status_of(endpoint, call)
                if endpoint in answered
                else ReplicaStatus(endpoint, None, errors.DeadlineExceeded("it has not answered"))
                for endpoint, call in self._looks.items()
            ]
        )

    def close(self) -> None:
        with self._lock:
            for channel in self._channels:
                channel.close()


def _status_of(endpoint: str, call: Any) -> ReplicaStatus:
    """What a replica told; waits for it."""
    try:
        return ReplicaStatus(endpoint, call.result(), None)
    except grpc.FutureCancelledError:
        return ReplicaStatus(endpoint, None, errors.Cancelled("the client was closed"))
    except grpc.RpcError as error:
        return ReplicaStatus(endpoint, None, errors.translate(error, endpoint=endpoint))


def _written(call: Any, connections: _Connections, deadline: Deadline, write: Write) -> Any:
    """The answer to a write; one that keeps its caller waiting has the replicas asked why. Ends with its
    caller."""
    try:
        try:
            return call.result(look_after_s(deadline.left_s()))
        except grpc.FutureTimeoutError:
            write.waited = True
            connections.look(deadline)
            return call.result()
    except (grpc.RpcError, grpc.FutureCancelledError):
        raise
    except BaseException:
        call.cancel()
        raise


class Client:
    """Calls a Muster service. Thread-safe; use one for the whole process, and close it at the end.

    endpoints: every replica as "host:port", in a list or joined by commas. Reads go to any of them, writes to
        the primary, which is found through health checks.
    credentials: None: what the environment says (`Credentials.from_environment`), usually nothing.
    A client made before a fork may be used after it, in parent and child, provided that it was not used
    before.

    >>> with Client("127.0.0.1:50051,127.0.0.1:50052") as client:  # doctest: +SKIP
    ...     answer = client.search("usb c cable", deadline_ms=50)
    ...     print(answer.receipt.tier, [result.title for result in answer.results])
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

    def mistrusted(self) -> list[str]:
        """The endpoints of the replicas that reads are spared at the moment: each is tried by one at a time,
        until it has answered well again."""
        return self._all_reads.replicas.mistrusted()

    def sendings(self) -> tuple[int, int]:
        """How many reads were begun, and how often they were sent in all: the second is above the first by
        what was hedged and retried."""
        return self._all_reads.sendings.counts()

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
        session: Session | None = None,
    ) -> ranking_pb2.SearchResponse:
        """Finds and orders products for a query, as well as the deadline allows.

        deadline_ms: milliseconds until the answer is useless; None: the settings' default.
        session: the answer has seen what the session has; see `Session`.
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
            min_sequence=min_sequence_for(session, min_sequence),
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.SearchResponse = self._read("search", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
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
        session: Session | None = None,
    ) -> ranking_pb2.RerankResponse:
        """Orders the caller's candidates. Arguments and errors as in `search`."""
        request = rerank_request(
            query,
            product_ids,
            page_size=page_size,
            min_sequence=min_sequence_for(session, min_sequence),
            explain=explain,
            priority=priority,
        )
        response: ranking_pb2.RerankResponse = self._read("rerank", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
        return response

    def recommend(
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
        """What a shopper takes next, as well as the deadline allows.

        history: products that the shopper took, oldest first; what feedback under shopper_id and session_id
            has told goes before them. Neither is needed: with nothing, what is popular is the answer.
        diversity: 0 to 1, see the contract. repeats: what is in the history may be named again.
        The other arguments and errors are those of `search`. min_sequence: that of a `record`, to see it.
        """
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
        response: ranking_pb2.RecommendResponse = self._read("recommend", request, deadline_ms)
        if session is not None:
            session.read(response.receipt.applied_sequence)
        return response

    def get(
        self,
        product_id: str,
        *,
        min_sequence: int = 0,
        deadline_ms: float | None = None,
        session: Session | None = None,
    ) -> catalogue_pb2.GetResponse:
        """Reads one product. Raises: NotFound, or another MusterError."""
        request = get_request(product_id, min_sequence=min_sequence_for(session, min_sequence))
        response: catalogue_pb2.GetResponse = self._read("get", request, deadline_ms)
        if session is not None:
            session.read(response.applied_sequence)
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
            replica = self._all_reads.replicas.order(time.monotonic())[0]
            request = catalogue_pb2.WatchRequest(from_sequence=wanted)
            stream = connections.watch[replica.endpoint](request)
            try:
                for response in stream:
                    failures = 0
                    if response.event.sequence == wanted:
                        wanted += 1
                        self._all_reads.replicas.answered(replica, time.monotonic())
                        yield response.event
                # A server ends the stream only when it leaves.
                self._all_reads.replicas.failed(replica, time.monotonic())
            except grpc.RpcError as error:
                if self._closed:
                    return
                self._all_reads.replicas.failed(replica, time.monotonic())
                if error.code() not in errors.RETRYABLE | {grpc.StatusCode.RESOURCE_EXHAUSTED}:
                    raise errors.translate(error, endpoint=replica.endpoint) from error
            finally:
                stream.cancel()
            failures += 1
            time.sleep(resend_pause_s(self.settings, failures))

    def status(self, *, deadline_ms: float = 1_000.0) -> list[ReplicaStatus]:
        """Asks every replica for its status, all at once. One entry for each endpoint, in their order."""
        calls = self._connected().ask_status(Deadline.after(deadline_ms))
        return [_status_of(endpoint, call) for endpoint, call in calls.items()]

    def transfer_lease(self, *, deadline_ms: float = 10_000.0) -> admin_pb2.TransferLeaseResponse:
        """Has the primary give the lease to another replica, without a failed request.

        Returns: who has it now; see the contract. Raises: Unavailable where no replica is primary, or another
        MusterError.
        """
        deadline = Deadline.after(deadline_ms)
        endpoint = primary_endpoint(self.status(deadline_ms=deadline_ms))
        admin = self._connected().admin(endpoint)
        try:
            response: admin_pb2.TransferLeaseResponse = admin.TransferLease(
                admin_pb2.TransferLeaseRequest(), **deadline.of_call()
            )
            return response
        except grpc.RpcError as error:
            raise errors.translate(error, endpoint=endpoint) from error
        except ValueError as error:
            raise self._closed_meanwhile(error) from error

    def _read(self, method: str, request: Any, deadline_ms: float | None) -> Any:
        deadline = Deadline.after(self.settings.deadline_ms if deadline_ms is None else deadline_ms)
        stubs: dict[str, Any] = getattr(self._connected(), method)
        ended: queue.SimpleQueue[tuple[Attempt, Any]] = queue.SimpleQueue()
        calls: list[Any] = []
        read = self._all_reads.read(method, deadline, request.min_sequence)

        def send(attempt: Attempt) -> None:
            stub = stubs[attempt.replica.endpoint]
            call = stub.future(request, **deadline.of_call(attempt.ends_s))
            calls.append(call)
            call.add_done_callback(lambda done: ended.put((attempt, done)))

        try:
            send(read.begin(time.monotonic()))
            while not read.over:
                again: Attempt | None
                try:
                    attempt, call = ended.get(timeout=max(0.0, read.wait_until_s() - time.monotonic()))
                    response = call.result()
                except queue.Empty:
                    again = read.wake(time.monotonic())
                except grpc.FutureCancelledError as error:
                    raise errors.Cancelled("the client was closed during the call") from error
                except grpc.RpcError as error:
                    again = read.failed(attempt, time.monotonic(), error)
                else:
                    read.answered(attempt, time.monotonic(), shown_sequence(response))
                    return response
                if again is not None:
                    send(again)
        except ValueError as error:
            raise self._closed_meanwhile(error) from error
        finally:
            for call in calls:
                call.cancel()
        raise read.error()

    # -- writes ----------------------------------------------------------

    def apply(
        self,
        events: catalogue_pb2.Event | Iterable[catalogue_pb2.Event],
        *,
        deadline_ms: float | None = None,
        session: Session | None = None,
    ) -> catalogue_pb2.ApplyResponse:
        """Appends events to the log as one batch, on whichever replica is the primary by then.

        Events without an `event_id` are given one, in place. Where an outcome is unknown the same events are
        sent again until the deadline; their ids keep them from being applied twice. After an error with
        the `outcome` "unknown" the caller may do the same.
        deadline_ms: None: the settings' default for writes. session: its next reads see these events.
        Raises: MusterError.
        """
        response: catalogue_pb2.ApplyResponse = self._write("Apply", apply_request(events), deadline_ms)
        if session is not None:
            session.wrote(response.sequence)
        return response

    def record(
        self,
        events: feedback_pb2.FeedbackEvent | Iterable[feedback_pb2.FeedbackEvent],
        *,
        deadline_ms: float | None = None,
    ) -> feedback_pb2.RecordResponse:
        """Records feedback as one batch; `muster.client.feedback(...)` makes the events. Sent again as in
        `apply`.

        deadline_ms: None: the settings' default for writes. Raises: MusterError.
        """
        response: feedback_pb2.RecordResponse = self._write("Record", record_request(events), deadline_ms)
        return response

    def erase_shopper(
        self, shopper_id: str, *, deadline_ms: float = 600_000.0
    ) -> admin_pb2.EraseShopperResponse:
        """Has the primary take a shopper out of the store; see the contract.

        Raises: Unavailable where no replica is primary, or another MusterError.
        """
        deadline = Deadline.after(deadline_ms)
        endpoint = primary_endpoint(self.status())
        try:
            response: admin_pb2.EraseShopperResponse = (
                self._connected()
                .admin(endpoint)
                .EraseShopper(admin_pb2.EraseShopperRequest(shopper_id=shopper_id), **deadline.of_call())
            )
            return response
        except grpc.RpcError as error:
            raise errors.translate(error, endpoint=endpoint) from error
        except ValueError as error:
            raise self._closed_meanwhile(error) from error

    def _write(self, method: str, request: Any, deadline_ms: float | None) -> Any:
        deadline = Deadline.after(self.settings.write_deadline_ms if deadline_ms is None else deadline_ms)
        write = Write(self.settings, deadline.budget_ms)
        connections = self._connected()
        send = connections.write(method)
        while True:
            try:
                call = send.future(request, wait_for_ready=True, **deadline.of_call())
                try:
                    return _written(call, connections, deadline, write)
                except grpc.FutureCancelledError:
                    raise call from None  # it is the error of its own end
            except grpc.RpcError as error:
                if write.waited:
                    write.seen = connections.seen()
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
                self._connections = _Connections(self.endpoints, self.settings, self.credentials)
            return self._connections
