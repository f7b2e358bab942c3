"""Search and Rerank through a real server: answers, receipts, and each way to refuse."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from muster.v1 import ranking_pb2
from tests.server.conftest import Pair
from tests.server.replica import Replica, patch, shoes, upsert, wait_until


def refusal(call: grpc.RpcError) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, reason, and the fields that were refused."""
    status = rpc_status.from_call(call)
    assert status is not None, call
    reason, fields = "", []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return call.code(), reason, fields


def search(
    pair: Pair, request: ranking_pb2.SearchRequest, timeout: float | None = 5
) -> ranking_pb2.SearchResponse:
    return pair.primary.ranking.Search(request, timeout=timeout)


def test_every_replica_ranks_and_gives_a_receipt(pair: Pair) -> None:
    for replica in (pair.primary, pair.standby):
        answer = replica.ranking.Search(ranking_pb2.SearchRequest(query="red shoe", page_size=5), timeout=5)
        assert len(answer.results) == 5
        assert all("red" in result.title for result in answer.results)
        receipt = answer.receipt
        assert receipt.replica == replica.name
        assert receipt.tier != ranking_pb2.TIER_UNSPECIFIED
        assert receipt.reason != ranking_pb2.REASON_UNSPECIFIED
        assert receipt.bundle_id == replica.status().bundle_id
        assert receipt.applied_sequence >= 60
        assert 0 < receipt.budget_us <= 5_050_000


def test_a_call_without_a_deadline_gets_the_configured_one(pair: Pair) -> None:
    receipt = search(pair, ranking_pb2.SearchRequest(query="red shoe"), timeout=None).receipt
    assert 150_000 < receipt.budget_us <= 200_000


def test_the_absolute_deadline_in_metadata_counts_where_it_is_nearer(pair: Pair) -> None:
    deadline_us = time.time_ns() // 1000 + 900_000
    answer = pair.primary.ranking.Search(
        ranking_pb2.SearchRequest(query="red shoe"),
        timeout=5,
        metadata=(("muster-deadline-unix-us", str(deadline_us)),),
    )
    assert answer.receipt.budget_us <= 900_000


def test_a_deadline_that_has_passed_is_refused_at_once(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.ranking.Search(
            ranking_pb2.SearchRequest(query="red shoe"),
            timeout=5,
            metadata=(("muster-deadline-unix-us", str(time.time_ns() // 1000 - 1)),),
        )
    assert refusal(caught.value) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BUDGET_SPENT", [])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ranking_pb2.SearchRequest(query=""), "query"),
        (ranking_pb2.SearchRequest(query="   "), "query"),
        (ranking_pb2.SearchRequest(query="x" * 1025), "query"),
        (ranking_pb2.SearchRequest(query="shoe", page_size=101), "page_size"),
        (ranking_pb2.SearchRequest(query="shoe", offset=901), "offset"),
        (ranking_pb2.SearchRequest(query="shoe", facets=["colour"]), "facets[0]"),
        (ranking_pb2.SearchRequest(query="shoe", priority=4), "priority"),  # type: ignore[arg-type]
        (ranking_pb2.SearchRequest(query="shoe", priority=-1), "priority"),  # type: ignore[arg-type]
        (
            ranking_pb2.SearchRequest(query="shoe", filter=ranking_pb2.Filter(price_min=float("nan"))),
            "filter.price_min",
        ),
        (
            ranking_pb2.SearchRequest(query="shoe", filter=ranking_pb2.Filter(price_min=2, price_max=1)),
            "filter.price_max",
        ),
        (
            ranking_pb2.SearchRequest(
                query="shoe",
                filter=ranking_pb2.Filter(
                    attributes=[ranking_pb2.AttributeFilter(name="nobody", values=["x"])]
                ),
            ),
            "filter.attributes[0].name",
        ),
    ],
)
def test_a_bad_search_names_its_field(pair: Pair, request_: ranking_pb2.SearchRequest, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        search(pair, request_)
    code, reason, fields = refusal(caught.value)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert field in fields


@pytest.mark.parametrize("method", ["Search", "Rerank"])
def test_bytes_that_are_no_message_are_refused(pair: Pair, method: str) -> None:
    call = pair.primary.channel.unary_unary(f"/muster.v1.RankingService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=5)
    assert refusal(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


def test_unknown_fields_of_a_newer_client_are_ignored(pair: Pair) -> None:
    call = pair.primary.channel.unary_unary("/muster.v1.RankingService/Search")
    request = ranking_pb2.SearchRequest(query="red shoe").SerializeToString() + b"\xf8\x3f\x01"
    answer = ranking_pb2.SearchResponse.FromString(call(request, timeout=5))
    assert answer.results


def test_a_budget_too_small_for_any_plan_is_refused(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.ranking.Search(
            ranking_pb2.SearchRequest(query="red shoe"),
            timeout=5,
            metadata=(("muster-deadline-unix-us", str(time.time_ns() // 1000 + 200)),),
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_search_waits_for_the_sequence_it_asks_for(pair: Pair) -> None:
    sequence = pair.primary.apply(upsert("waited-for", "purple waited sandal")).sequence
    answer = pair.standby.ranking.Search(
        ranking_pb2.SearchRequest(query="purple waited sandal", min_sequence=sequence), timeout=5
    )
    assert answer.receipt.applied_sequence >= sequence
    assert answer.results[0].product_id == "waited-for"


def test_a_sequence_that_does_not_come_is_unavailable(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        search(pair, ranking_pb2.SearchRequest(query="red shoe", min_sequence=10**9), timeout=0.3)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert pair.primary.status().serving


def test_a_price_is_in_the_next_answer_after_its_acknowledgement(pair: Pair) -> None:
    pair.primary.apply(upsert("priced", "orange priced lamp", price=1.0, stock=1))
    for price in (2.0, 3.0, 4.0):
        pair.primary.apply(patch("priced", price=price, stock=int(price)))
        answer = search(pair, ranking_pb2.SearchRequest(query="orange priced lamp", page_size=1))
        assert (answer.results[0].price, answer.results[0].stock) == (price, int(price))


def test_candidates_are_ordered_and_unknown_ones_are_named(pair: Pair) -> None:
    ids = ["red-3", "nobody", "red-5", "red-4"]
    answer = pair.standby.ranking.Rerank(
        ranking_pb2.RerankRequest(query="shoe 5", product_ids=ids), timeout=5
    )
    assert sorted(result.product_id for result in answer.results) == ["red-3", "red-4", "red-5"]
    assert list(answer.unknown_product_ids) == ["nobody"]


def test_a_cancelled_search_leaves_nothing_behind(pair: Pair) -> None:
    futures = [
        pair.primary.ranking.Search.future(ranking_pb2.SearchRequest(query="red shoe"), timeout=5)
        for _ in range(50)
    ]
    for future in futures:
        future.cancel()
    assert search(pair, ranking_pb2.SearchRequest(query="red shoe")).results
    give_up_at = time.monotonic() + 10
    while pair.primary.status().in_flight and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert pair.primary.status().in_flight == 0


PRIORITIES = ("sheddable", "default", "critical")


def answered_by_priority(replica: Replica) -> Counter[str]:
    """How many requests of each class the replica has answered, as its metrics tell."""
    found = re.search(r"metrics on port (\d+)", replica.log())
    assert found is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=10) as response:
        exposed = response.read().decode()
    pattern = r'muster_answered_by_priority_total\{priority="(\w+)"\} (\d+)'
    return Counter({name: int(count) for name, count in re.findall(pattern, exposed)})


@pytest.mark.parametrize("method", ["Search", "Rerank"])
@pytest.mark.parametrize(
    ("field_", "told", "expected"),
    [
        (ranking_pb2.PRIORITY_UNSPECIFIED, None, "default"),
        (ranking_pb2.PRIORITY_CRITICAL, None, "critical"),
        (ranking_pb2.PRIORITY_UNSPECIFIED, "sheddable", "sheddable"),
        (ranking_pb2.PRIORITY_UNSPECIFIED, "default", "default"),
        (ranking_pb2.PRIORITY_SHEDDABLE, "critical", "sheddable"),
        (ranking_pb2.PRIORITY_DEFAULT, "critical", "default"),
    ],
)
def test_the_priority_is_the_fields_else_the_metadatas_else_the_default(
    pair: Pair, method: str, field_: ranking_pb2.Priority.ValueType, told: str | None, expected: str
) -> None:
    before = answered_by_priority(pair.primary)
    metadata = () if told is None else (("muster-priority", told),)
    if method == "Search":
        search_ = ranking_pb2.SearchRequest(query="red shoe", priority=field_)
        pair.primary.ranking.Search(search_, timeout=5, metadata=metadata)
    else:
        rerank = ranking_pb2.RerankRequest(query="red shoe", product_ids=["red-1"], priority=field_)
        pair.primary.ranking.Rerank(rerank, timeout=5, metadata=metadata)
    assert answered_by_priority(pair.primary) - before == Counter({expected: 1})


@pytest.mark.parametrize("told", ["", "urgent", "Critical", "1"])
@pytest.mark.parametrize("field_", [ranking_pb2.PRIORITY_UNSPECIFIED, ranking_pb2.PRIORITY_CRITICAL])
def test_an_unknown_priority_in_metadata_is_refused_even_where_the_field_is_known(
    pair: Pair, told: str, field_: ranking_pb2.Priority.ValueType
) -> None:
    metadata = (("muster-priority", told),)
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.ranking.Search(
            ranking_pb2.SearchRequest(query="red shoe", priority=field_), timeout=5, metadata=metadata
        )
    expected = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", ["muster-priority"])
    assert refusal(caught.value) == expected
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.ranking.Rerank(
            ranking_pb2.RerankRequest(query="red shoe", product_ids=["red-1"], priority=field_),
            timeout=5,
            metadata=metadata,
        )
    assert refusal(caught.value) == expected


def test_an_unknown_priority_of_a_rerank_names_its_field(pair: Pair) -> None:
    request = ranking_pb2.RerankRequest(query="red shoe", product_ids=["red-1"], priority=7)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.ranking.Rerank(request, timeout=5)
    assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", ["priority"])


@dataclass
class Flooded:
    """What one class got in a flood."""

    receipts: list[ranking_pb2.Receipt] = field(default_factory=list)
    refused: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)

    def worth(self) -> float:
        return sum(receipt.expected_ndcg for receipt in self.receipts) / len(self.receipts)

    def refused_share(self) -> float:
        return len(self.refused) / (len(self.refused) + len(self.receipts))


CALLERS = {"sheddable": 24, "default": 10, "critical": 6}
CALLS_EACH = 60


@pytest.fixture(scope="module")
def flooded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flooded]]:
    """A replica with one worker and a short queue; forty callers, each of whom asks again at once."""
    settings = {"generation.rebuild": "false", "ranking.workers": 1, "ranking.queue_max": 24}
    found = {name: Flooded() for name in PRIORITIES}
    with Replica(bundle, tmp_path_factory.mktemp("flood") / "data", "a", settings) as replica:
        replica.wait_primary().apply(*shoes(60))
        query = ranking_pb2.SearchRequest(query="red running shoe")
        # Vectors of new products follow in the background; until then no plan but the cheapest can run.
        wait_until(
            lambda: replica.ranking.Search(query, timeout=30).receipt.reason == ranking_pb2.REASON_BEST,
            "the best plan runs",
        )

        def ask(name: str) -> None:
            for _ in range(CALLS_EACH):
                try:
                    answer = replica.ranking.Search(query, timeout=30, metadata=(("muster-priority", name),))
                    found[name].receipts.append(answer.receipt)
                except grpc.RpcError as error:
                    found[name].refused.append(refusal(error)[:2])
                    time.sleep(0.002)

        callers = [
            threading.Thread(target=ask, args=(name,))
            for name, count in CALLERS.items()
            for _ in range(count)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        yield found


def test_in_a_flood_a_higher_priority_keeps_better_plans(flooded: dict[str, Flooded]) -> None:
    worth = {name: round(one.worth(), 4) for name, one in flooded.items()}
    assert worth["critical"] > max(worth["default"], worth["sheddable"]), worth


def test_in_a_flood_receipts_say_where_a_default_request_would_have_got_more(
    flooded: dict[str, Flooded],
) -> None:
    reasons = {name: {receipt.reason for receipt in one.receipts} for name, one in flooded.items()}
    assert ranking_pb2.REASON_PRIORITY in reasons["sheddable"]
    assert ranking_pb2.REASON_PRIORITY not in reasons["default"] | reasons["critical"]


def test_in_a_flood_sheddable_requests_are_refused_first(flooded: dict[str, Flooded]) -> None:
    refused = {name: round(one.refused_share(), 3) for name, one in flooded.items()}
    assert refused["sheddable"] > max(refused["default"], refused["critical"]), refused
    expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert {refusal_ for one in flooded.values() for refusal_ in one.refused} == {expected}
