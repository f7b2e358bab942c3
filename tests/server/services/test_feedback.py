"""Feedback through real servers: recorded on the primary, followed by the standby, erased while it is
served.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request

import grpc
import pytest

from muster.client import Client, InvalidRequest, feedback
from muster.v1 import admin_pb2, catalogue_pb2, feedback_pb2, feedback_pb2_grpc, ranking_pb2
from server.privacy import commands
from tests.server.conftest import Pair
from tests.server.replica import NOT_SERVING, SERVING, Replica, wait_until
from tests.server.services.test_ranking import refusal

SERVICE = "muster.v1.FeedbackService"


def record(replica: Replica, *events: feedback_pb2.FeedbackEvent) -> feedback_pb2.RecordResponse:
    stub = feedback_pb2_grpc.FeedbackServiceStub(replica.channel)
    response: feedback_pb2.RecordResponse = stub.Record(feedback_pb2.RecordRequest(events=events), timeout=10)
    return response


def stored(pair: Pair, sequence: int) -> feedback_pb2.Feedback:
    """As Watch tells it."""
    stream = pair.standby.catalogue.Watch(catalogue_pb2.WatchRequest(from_sequence=sequence), timeout=10)
    told = next(iter(stream)).event
    stream.cancel()
    assert told.sequence == sequence
    return told.event.feedback


def test_the_primary_alone_records_and_says_so_by_health(pair: Pair) -> None:
    assert pair.primary.health(SERVICE) == SERVING
    assert pair.standby.health(SERVICE) == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        record(pair.standby, feedback("click", "red-1"))
    assert refusal(caught.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "NOT_PRIMARY")


def test_an_answer_of_any_replica_has_a_receipt_that_the_primary_knows(pair: Pair) -> None:
    ids = set()
    for replica in (pair.primary, pair.standby):
        answer = replica.ranking.Search(ranking_pb2.SearchRequest(query="red shoe"), timeout=5)
        ids.add(answer.receipt.receipt_id)
        response = record(
            pair.primary, feedback("click", answer.results[0].product_id, receipt=answer.receipt, position=1)
        )
        assert response.unknown_receipts == 0
        assert stored(pair, response.sequence).receipt == feedback_pb2.RECEIPT_STATE_KNOWN
    again = pair.primary.ranking.Rerank(
        ranking_pb2.RerankRequest(query="red shoe", product_ids=["red-1"]), timeout=5
    )
    ids.add(again.receipt.receipt_id)
    assert len(ids) == 3
    assert "" not in ids


def test_feedback_on_an_answer_that_nobody_gave_is_marked(pair: Pair) -> None:
    response = record(pair.primary, feedback("click", "red-1", receipt="0" * 40))
    assert response.unknown_receipts == 1
    kept = stored(pair, response.sequence)
    assert (kept.receipt, kept.receipt_id) == (feedback_pb2.RECEIPT_STATE_UNKNOWN, "")


def test_an_event_sent_twice_is_recorded_once_and_the_client_sends_it(pair: Pair) -> None:
    event = feedback("buy", "red-2", shopper_id="anna")
    with Client([pair.primary.address, pair.standby.address]) as client:
        first = client.record(event)
        second = client.record([event])
    assert (second.sequence, second.duplicates) == (first.sequence, 1)


def test_a_standby_follows_past_feedback_and_a_search_finds_what_came_after(pair: Pair) -> None:
    record(pair.primary, *(feedback("view", f"red-{number}") for number in range(300)))
    event = catalogue_pb2.Event(
        event_id="after-feedback",
        upsert=catalogue_pb2.Product(product_id="after-feedback", title="violet kite"),
    )
    sequence = pair.primary.apply(event).sequence
    answer = pair.standby.ranking.Search(
        ranking_pb2.SearchRequest(query="violet kite", min_sequence=sequence), timeout=10
    )
    assert answer.results[0].product_id == "after-feedback"


def test_what_is_wrong_is_named_and_nothing_of_the_batch_is_written(pair: Pair) -> None:
    before = pair.primary.status().head_sequence
    with pytest.raises(grpc.RpcError) as caught:
        record(pair.primary, feedback("click", "red-1"), feedback("click", "", shopper_id="x" * 300))
    assert refusal(caught.value) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        ["events[1].product_id", "events[1].shopper_id"],
    )
    assert "xxx" not in caught.value.details()
    assert pair.primary.status().head_sequence == before
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.apply(catalogue_pb2.Event(event_id="f", feedback=feedback_pb2.Feedback()))
    assert refusal(caught.value)[2] == ["events[0].feedback"]
    with pytest.raises(InvalidRequest):
        feedback("like", "red-1")  # type: ignore[arg-type]


def test_watch_tells_no_followers_whose_feedback_it_is(pair: Pair) -> None:
    event = feedback("comment", "red-3", shopper_id="anna", session_id="visit", comment="nice", query="red")
    kept = stored(pair, record(pair.primary, event).sequence)
    assert (kept.kind, kept.product_id) == (feedback_pb2.FEEDBACK_KIND_COMMENT, "red-3")
    assert (kept.shopper, kept.session, kept.comment, kept.query) == ("", "", "", "")


def test_a_shopper_is_erased_while_the_service_runs(pair: Pair) -> None:
    name = f"shopper-{time.monotonic_ns()}"
    record(pair.primary, *(feedback("click", "red-1", shopper_id=name) for _ in range(5)))
    request = admin_pb2.EraseShopperRequest(shopper_id=name)
    erased = pair.primary.admin.EraseShopper(request, timeout=60)
    assert erased.log_events + erased.folded_events == 5
    assert erased.pseudonyms
    assert pair.primary.admin.EraseShopper(request, timeout=60).log_events == 0
    with pytest.raises(grpc.RpcError) as caught:
        pair.standby.admin.EraseShopper(request, timeout=60)
    assert refusal(caught.value)[1] == "NOT_PRIMARY"
    # Both go on: the log has no gap.
    sequence = record(pair.primary, feedback("click", "red-1")).sequence
    wait_until(lambda: pair.standby.status().applied_sequence >= sequence, "the standby has applied all")


def test_the_command_erases_while_replicas_serve_and_the_scan_of_all_bytes_proves_it(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    name, other = f"gone-{time.monotonic_ns()}", f"stays-{time.monotonic_ns()}"
    record(pair.primary, *(feedback("click", "red-1", shopper_id=who) for who in (name, other) * 30))
    folder = str(pair.primary.port_file.parent / "data")

    def scan(who: str) -> int:
        code = commands.main(["scan", "--shopper", who, "--store", folder, "--json"])
        assert json.loads(capsys.readouterr().out)["unread"] == []
        return code

    assert scan(name) == scan(other) == commands.EXIT_LEFT
    target = f"{pair.primary.address},{pair.standby.address}"
    erase = ["erase", "--shopper", name, "--target", target, "--store", folder, "--json"]
    assert commands.main(erase) == commands.EXIT_DONE, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["places"][0]["events"] == 30
    assert scan(name) == commands.EXIT_DONE
    assert scan(other) == commands.EXIT_LEFT


def test_counts_are_published_and_no_name_is_in_metrics_or_logs(pair: Pair) -> None:
    name = "marked-shopper-4711"
    record(
        pair.primary,
        feedback("comment", "red-1", shopper_id=name, session_id=f"{name}-visit", comment=f"{name} x@y.com"),
    )
    port = re.search(r"metrics on port (\d+)", pair.primary.log())
    assert port is not None
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=5).read().decode()
    assert re.search(r'muster_feedback_total\{kind="comment"\} [1-9]', metrics)
    assert re.search(r'muster_scrubbed_total\{kind="email"\} [1-9]', metrics)
    assert name not in metrics
    assert name not in pair.primary.log()
    assert name not in pair.standby.log()
