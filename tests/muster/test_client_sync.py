"""The synchronous client against real servers with scripted faults."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from muster.client import (
    Client,
    ClientClosed,
    ClientSettings,
    DeadlineExceeded,
    InvalidRequest,
    MusterError,
    NotFound,
    Overloaded,
    Priority,
    Session,
    Unavailable,
    content_event_id,
    delete,
    patch,
    search_filter,
    upsert,
)
from muster.v1 import catalogue_pb2, ranking_pb2
from tests.muster.conftest import Start
from tests.muster.scripted_replica import ScriptedReplica, fails

CODE = grpc.StatusCode
LONG_MS = 20_000.0
ROOT = Path(__file__).parents[2]


def connect(replicas: list[ScriptedReplica], **settings: Any) -> Client:
    return Client([replica.endpoint for replica in replicas], settings=ClientSettings(**settings))


def details(*messages: Any, code: int = 3) -> tuple[tuple[str, bytes], ...]:
    status = status_pb2.Status(code=code, message="scripted")
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def test_a_search_carries_its_arguments_and_the_absolute_deadline(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    with connect(replicas) as client:
        before = time.time_ns() // 1000
        answer = client.search(
            "usb cable",
            deadline_ms=LONG_MS,
            filter=search_filter(
                brands=["Acme"], price_max=9.5, in_stock=True, attributes={"color": ["red"]}
            ),
            page_size=7,
            offset=3,
            facets=["brand"],
            min_sequence=11,
            explain=True,
        )
        after = time.time_ns() // 1000
    assert answer.receipt.replica == "r0"
    request = replicas[0].requests[0]
    assert (request.query, request.page_size, request.offset) == ("usb cable", 7, 3)
    assert (list(request.facets), request.min_sequence, request.explain) == (["brand"], 11, True)
    assert request.filter.price_max == 9.5 and not request.filter.HasField("price_min")
    assert request.filter.attributes[0].name == "color"
    sent = int(replicas[0].metadata[0]["muster-deadline-unix-us"])
    assert before + LONG_MS * 1000 <= sent <= after + LONG_MS * 1000


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (None, ranking_pb2.PRIORITY_UNSPECIFIED),
        ("critical", ranking_pb2.PRIORITY_CRITICAL),
        ("default", ranking_pb2.PRIORITY_DEFAULT),
        ("sheddable", ranking_pb2.PRIORITY_SHEDDABLE),
    ],
)
def test_a_priority_is_sent_with_a_search_and_a_rerank(
    start_replicas: Start, priority: Priority | None, expected: int
) -> None:
    replicas = start_replicas(1)
    with connect(replicas) as client:
        client.search("tea", deadline_ms=LONG_MS, priority=priority)
        client.rerank("tea", ["P1"], deadline_ms=LONG_MS, priority=priority)
    assert [request.priority for request in replicas[0].requests] == [expected, expected]


def test_an_unknown_priority_is_refused_before_anything_is_sent(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    with connect(replicas) as client:
        for call in (
            lambda: client.search("tea", priority="urgent"),  # type: ignore[arg-type]
            lambda: client.rerank("tea", ["P1"], priority="urgent"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert [field for field, _ in caught.value.violations] == ["priority"]
    assert not replicas[0].calls


def test_reads_are_spread_over_all_replicas(start_replicas: Start) -> None:
    replicas = start_replicas(3)
    with connect(replicas, hedge_after_ms=LONG_MS) as client:
        for _ in range(9):
            client.search("tea", deadline_ms=LONG_MS)
    assert [len(replica.calls) for replica in replicas] == [3, 3, 3]


def test_an_unavailable_replica_is_replaced_by_another_one(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = fails(CODE.UNAVAILABLE)
    with connect(replicas, hedge_after_ms=LONG_MS) as client:
        answers = [client.search("tea", deadline_ms=LONG_MS).receipt.replica for _ in range(6)]
    assert answers == ["r1"] * 6
    assert len(replicas[0].calls) <= 3, "a replica that just failed is not asked first again"


def test_a_single_replica_that_recovers_is_asked_again(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].script = [fails(CODE.UNAVAILABLE)] * 3
    with connect(replicas) as client:
        assert client.search("tea", deadline_ms=LONG_MS).receipt.replica == "r0"
    assert len(replicas[0].calls) == 4


def test_after_the_last_attempt_the_client_says_unavailable_and_who_said_so(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = fails(CODE.UNAVAILABLE, "warming up")
    with connect(replicas) as client, pytest.raises(Unavailable, match="warming up") as caught:
        client.search("tea", deadline_ms=LONG_MS)
    assert len(replicas[0].calls) == 4
    assert caught.value.endpoint == replicas[0].endpoint


def test_nothing_listening_is_unavailable_well_before_the_deadline() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.search("tea", deadline_ms=600_000)


def test_the_retry_budget_ends_retries_in_an_outage(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = fails(CODE.UNAVAILABLE)
    with connect(replicas, retry_tokens_max=4, retry_backoff_max_ms=5.0) as client:
        for _ in range(5):
            with pytest.raises(Unavailable):
                client.search("tea", deadline_ms=LONG_MS)
    # Two failures leave half of four tokens; from then on each call is sent once.
    assert len(replicas[0].calls) == 2 + 4


def test_a_silent_replica_is_hedged_and_its_call_is_cancelled(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = replicas[0].hang
    with connect(replicas) as client:
        answers = [client.search("tea", deadline_ms=LONG_MS).receipt.replica for _ in range(4)]
        assert replicas[0].left.wait(10), "the loser of a hedge is cancelled"
    assert answers == ["r1"] * 4


def test_without_hedge_budget_a_silent_replica_leaves_the_other_one_its_share(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = replicas[0].hang
    with connect(replicas, hedge_share=0.0, hedge_burst=0, reserve_share=0.5) as client:
        before = time.time_ns() // 1000
        answers = [client.search("tea", deadline_ms=4_000).receipt.replica for _ in range(2)]
        after = time.time_ns() // 1000
    assert answers == ["r1", "r1"]
    [first] = [int(call["muster-deadline-unix-us"]) for call in replicas[0].metadata]
    assert before + 1_900_000 <= first <= after + 2_100_000, "it was told of half the time"
    assert max(int(call["muster-deadline-unix-us"]) for call in replicas[1].metadata) >= first + 1_900_000


def test_a_replica_that_let_a_deadline_pass_is_avoided(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].always = replicas[0].hang
    outcomes = []
    with connect(replicas, hedge_share=0.0, hedge_burst=0, reserve_share=0.0) as client:
        while "late" not in outcomes:
            try:
                outcomes.append(client.search("tea", deadline_ms=100).receipt.replica)
            except DeadlineExceeded:
                outcomes.append("late")
        assert client.search("tea", deadline_ms=LONG_MS).receipt.replica == "r1"


def test_a_replica_that_stops_serving_reads_gets_none(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    with connect(replicas, hedge_after_ms=LONG_MS) as client:
        for _ in range(2):
            client.search("tea", deadline_ms=LONG_MS)
        replicas[0].serve(ranking=False, catalogue=False)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # the health watch tells the client within moments
            before = len(replicas[0].calls)
            for _ in range(4):
                client.search("tea", deadline_ms=LONG_MS)
            if len(replicas[0].calls) == before:
                break
        assert len(replicas[0].calls) == before


def test_a_bad_request_names_its_fields_and_is_not_sent_again(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="page_size", description="1 to 100")
    info = error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", domain="muster.v1")
    for replica in replicas:
        replica.always = fails(CODE.INVALID_ARGUMENT, "page_size: 1 to 100", details(bad, info))
    with connect(replicas, hedge_after_ms=LONG_MS) as client, pytest.raises(InvalidRequest) as caught:
        client.search("tea", page_size=500, deadline_ms=LONG_MS)
    assert caught.value.violations == [("page_size", "1 to 100")]
    assert caught.value.reason == "INVALID_FIELDS"
    assert sum(len(replica.calls) for replica in replicas) == 1


def test_shed_load_says_when_to_come_back_and_is_not_retried(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=70_000_000))
    replicas[0].script = [
        fails(CODE.RESOURCE_EXHAUSTED, trailers=details(retry, code=8)),
        fails(CODE.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "90"),)),
        fails(CODE.RESOURCE_EXHAUSTED, trailers=(("grpc-status-details-bin", b"\xff\xff"),)),
    ]
    waits = []
    with connect(replicas) as client:
        for _ in range(3):
            with pytest.raises(Overloaded) as caught:
                client.search("tea", deadline_ms=LONG_MS)
            waits.append(caught.value.retry_after_ms)
    assert waits == [70, 90, 0]
    assert len(replicas[0].calls) == 3


def test_a_missing_product_is_not_found(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].script = [fails(CODE.NOT_FOUND, "no product 'X'")]
    with connect(replicas) as client:
        with pytest.raises(NotFound, match="no product"):
            client.get("X", deadline_ms=LONG_MS)
        assert client.get("Y", deadline_ms=LONG_MS).product.product_id == "Y"


def test_a_passed_deadline_is_deadline_exceeded(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang
    with connect(replicas) as client, pytest.raises(DeadlineExceeded):
        client.search("tea", deadline_ms=50)


@pytest.mark.parametrize("budget_ms", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(start_replicas: Start, budget_ms: float) -> None:
    with connect(start_replicas(1)) as client, pytest.raises(InvalidRequest, match="deadline"):
        client.search("tea", deadline_ms=budget_ms)


def test_values_that_cannot_be_sent_are_invalid_requests(start_replicas: Start) -> None:
    with connect(start_replicas(1)) as client:
        with pytest.raises(InvalidRequest) as caught:
            client.search("tea", page_size=-1)
        assert caught.value.violations[0][0] == "page_size"
        for call in (client.search, client.get, delete):
            with pytest.raises(InvalidRequest):
                call("half a pair \ud800")
        with pytest.raises(InvalidRequest):
            client.search(b"bytes \xff")  # type: ignore[arg-type]


def test_recommendations_take_products_or_items_and_see_what_the_session_has(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    item = ranking_pb2.HistoryItem(product_id="B", occurred_unix_us=5)
    with Client(replica.endpoint) as client:
        session = Session(9)
        answer = client.recommend(["A", item], shopper_id="ada", deadline_ms=LONG_MS, session=session)
    assert [result.product_id for result in answer.results] == ["P2"]
    sent = replica.requests[0]
    assert [(one.product_id, one.occurred_unix_us) for one in sent.history] == [("A", 0), ("B", 5)]
    assert (sent.shopper_id, sent.min_sequence) == ("ada", 9)


def test_rerank_returns_the_candidates(start_replicas: Start) -> None:
    with connect(start_replicas(1)) as client:
        answer = client.rerank("tea", ["A", "B"], deadline_ms=LONG_MS)
    assert [result.product_id for result in answer.results] == ["A", "B"]


def test_a_write_goes_to_the_primary_alone(start_replicas: Start) -> None:
    replicas = start_replicas(3)
    with connect(replicas) as client:
        for number in range(4):
            assert client.apply(patch("P", price=number + 0.5), deadline_ms=LONG_MS).sequence == number + 1
    assert [len(replica.calls) for replica in replicas] == [4, 0, 0]


def test_a_write_follows_the_role_to_another_replica(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    with connect(replicas) as client:
        client.apply(delete("P"), deadline_ms=LONG_MS)
        replicas[0].always = fails(CODE.UNAVAILABLE, "standby")
        replicas[0].serve(ranking=True, catalogue=False)
        replicas[1].serve(ranking=True, catalogue=True)
        assert client.apply(delete("P"), deadline_ms=LONG_MS).sequence == 2
    assert replicas[1].calls == ["Apply"]


def test_a_write_waits_for_a_primary_to_appear(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    replicas[0].serve(ranking=True, catalogue=False)
    with connect(replicas) as client:
        timer = threading.Timer(0.2, lambda: replicas[1].serve(ranking=True, catalogue=True))
        timer.start()
        assert client.apply(delete("P"), deadline_ms=LONG_MS).sequence == 1
        timer.join()
    assert replicas[1].calls == ["Apply"]


def test_a_write_that_cannot_reach_the_primary_tells_what_the_others_say_of_it(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    for replica in replicas:
        replica.serve(ranking=True, catalogue=False)
        replica.primary = "far"
    endpoints = [*(replica.endpoint for replica in replicas), "127.0.0.1:1"]
    with Client(endpoints) as client, pytest.raises(DeadlineExceeded) as caught:
        client.apply(delete("P"), deadline_ms=3_000)
    told = r"the primary is far, say r0, r1, and it does not answer this client \(127\.0\.0\.1:1\)"
    assert re.search(told, str(caught.value))
    assert [replica.calls for replica in replicas] == [[], []]


def test_an_unknown_outcome_is_sent_again_with_the_same_ids_and_applied_once(start_replicas: Start) -> None:
    replicas = start_replicas(1)

    def committed_but_lost(request: Any, context: grpc.ServicerContext) -> Any:
        replicas[0].append(request)
        context.abort(CODE.UNAVAILABLE, "connection lost")

    # One more than gRPC's own retries send, so that the client's resending is seen as well.
    replicas[0].script = [committed_but_lost] * 5
    event = upsert(catalogue_pb2.Product(product_id="P", title="tea"))
    with connect(replicas) as client:
        answer = client.apply([event], deadline_ms=LONG_MS)
    assert answer.duplicates == 1
    assert list(replicas[0].log) == [event.event_id]
    assert len(replicas[0].calls) == 6


def test_a_fenced_write_is_sent_again(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].script = [fails(CODE.ABORTED, "fenced")]
    with connect(replicas) as client:
        assert client.apply(delete("P"), deadline_ms=LONG_MS).sequence == 1


def test_a_write_without_acknowledgement_says_that_its_outcome_is_unknown(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang
    event = delete("P")
    with connect(replicas) as client, pytest.raises(DeadlineExceeded, match="send the same events") as caught:
        client.apply(event, deadline_ms=100)
    assert caught.value.outcome == "unknown"


def test_the_server_can_say_that_nothing_was_written(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    info = error_details_pb2.ErrorInfo(reason="APPEND_TIMEOUT", metadata={"outcome": "not_written"})
    replicas[0].script = [fails(CODE.DEADLINE_EXCEEDED, trailers=details(info, code=4))]
    with connect(replicas) as client, pytest.raises(DeadlineExceeded) as caught:
        client.apply(delete("P"), deadline_ms=LONG_MS)
    assert caught.value.outcome == "not_written"


def test_events_without_an_id_are_given_one_in_place(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    event = catalogue_pb2.Event(delete=catalogue_pb2.Delete(product_id="P"))
    with connect(replicas) as client:
        client.apply(event, deadline_ms=LONG_MS)
        assert event.event_id
        assert client.apply(event, deadline_ms=LONG_MS).duplicates == 1


def test_batches_out_of_range_are_refused_before_they_are_sent(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    with connect(replicas) as client:
        for count in (0, 1_001):
            with pytest.raises(InvalidRequest, match="1 to 1,000"):
                client.apply([delete("P") for _ in range(count)])
    assert replicas[0].calls == []


def test_watch_goes_on_at_another_replica_without_gap_or_double(start_replicas: Start) -> None:
    replicas = start_replicas(2)  # each ends its stream after three events
    with connect(replicas) as client:
        stream = client.watch(5)
        seen = [next(stream).sequence for _ in range(8)]
        stream.close()  # type: ignore[attr-defined]
    assert seen == list(range(5, 13))


def test_watch_raises_what_no_other_replica_could_mend(start_replicas: Start) -> None:
    replicas = start_replicas(1)
    replicas[0].script = [fails(CODE.INVALID_ARGUMENT, "from_sequence")]
    with connect(replicas) as client, pytest.raises(InvalidRequest):
        next(client.watch(1))


def test_status_tells_of_each_replica_also_of_a_dead_one_and_of_one_that_does_not_serve(
    start_replicas: Start,
) -> None:
    replicas = start_replicas(2)
    replicas[1].serve(ranking=False, catalogue=False)
    with Client([replicas[0].endpoint, "127.0.0.1:1", replicas[1].endpoint]) as client:
        found = client.status(deadline_ms=LONG_MS)
    assert [entry.status.replica if entry.status else None for entry in found] == ["r0", None, "r1"]
    assert isinstance(found[1].error, Unavailable)


def test_a_closed_client_says_so(start_replicas: Start) -> None:
    client = connect(start_replicas(1))
    client.search("tea", deadline_ms=LONG_MS)
    client.close()
    client.close()
    for call in (lambda: client.search("tea"), lambda: client.apply(delete("P")), client.status):
        with pytest.raises(ClientClosed):
            call()


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.search("tea", deadline_ms=LONG_MS),
        lambda client: client.apply(delete("P"), deadline_ms=LONG_MS),
    ],
    ids=["read", "write"],
)
def test_closing_ends_calls_under_way(start_replicas: Start, ask: Callable[[Client], object]) -> None:
    replicas = start_replicas(1)
    replicas[0].always = replicas[0].hang
    client = connect(replicas)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            ask(client)
        except MusterError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not replicas[0].calls:
        time.sleep(0.005)
    client.close()
    thread.join(10)
    assert not thread.is_alive() and len(caught) == 1


def test_many_threads_share_one_client(start_replicas: Start) -> None:
    replicas = start_replicas(2)
    answers: list[ranking_pb2.SearchResponse] = []
    with connect(replicas) as client:
        threads = [
            threading.Thread(
                target=lambda: answers.extend(client.search("tea", deadline_ms=LONG_MS) for _ in range(20))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 160


@pytest.mark.parametrize(
    "text", ["", "host", "host:0", "host:99999", "http://host:1", "a b:1", ",", "[::1:5"]
)
def test_endpoints_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Client(text)


def test_endpoints_come_as_list_or_text() -> None:
    assert Client("a:1, b:2,a:1").endpoints == ["a:1", "b:2"]
    assert Client(["[::1]:5"]).endpoints == ["[::1]:5"]


def test_a_client_made_before_a_fork_serves_parent_and_child(start_replicas: Start) -> None:
    endpoint = start_replicas(1)[0].endpoint
    program = (
        "import os, sys\n"
        "from muster.client import Client\n"
        f"client = Client('{endpoint}')\n"
        "child = os.fork()\n"
        "assert client.search('tea', deadline_ms=20000).receipt.replica == 'r0'\n"
        "if child == 0: os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0


def test_the_same_content_gives_the_same_event_id() -> None:
    assert content_event_id("a", b"b") == content_event_id("a", "b")
    assert content_event_id("a", "b") != content_event_id("ab")
    assert len(content_event_id("x")) <= 128


def test_a_patch_without_values_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        patch("P")
    with pytest.raises(InvalidRequest):
        patch("P", stock=2**63)
