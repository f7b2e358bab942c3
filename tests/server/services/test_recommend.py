"""Recommend through real servers: from the bundle's section, from texts, from what is popular; what feedback
tells; each way to refuse.
"""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from muster.client import feedback
from muster.commands.output import plain
from muster.explanation import brought, brought_sum
from muster.v1 import admin_pb2, catalogue_pb2, feedback_pb2
from muster.v1 import ranking_pb2 as pb
from tests.fixtures import tiny_section
from tests.server.conftest import Pair
from tests.server.replica import Replica
from tests.server.services.shop import SETTINGS, Serving, record
from tests.server.services.test_ranking import refusal


def items(*product_ids: str) -> list[pb.HistoryItem]:
    return [pb.HistoryItem(product_id=product_id) for product_id in product_ids]


def ask(replica: Replica, *history: str, timeout: float = 10, **more: Any) -> pb.RecommendResponse:
    request = pb.RecommendRequest(history=items(*history), **more)
    answer: pb.RecommendResponse = replica.ranking.Recommend(request, timeout=timeout)
    return answer


def names(answer: pb.RecommendResponse) -> list[str]:
    return [result.product_id for result in answer.results]


def test_every_replica_recommends_what_comes_next_and_gives_a_receipt(shop: Serving) -> None:
    for replica in (shop.primary, shop.standby):
        answer = ask(replica, "best-1", "phone-3", page_size=5)
        assert names(answer)[0] == "case-3"
        assert not {"best-1", "phone-3"} & set(names(answer))
        receipt = answer.receipt
        assert (receipt.tier, receipt.planned_tier) == (pb.TIER_ORDERED, pb.TIER_ORDERED)
        assert (receipt.reason, receipt.expected_ndcg) == (pb.REASON_BEST, 1.0)
        assert receipt.depth == 10
        assert receipt.replica == replica.name
        assert receipt.bundle_id == replica.status().bundle_id
        assert receipt.timings.total_us >= receipt.timings.retrieve_us > 0
        assert 0 < receipt.budget_us <= 10_000_000
        assert len(receipt.receipt_id) == 40
        assert (answer.history.used, answer.history.unknown, answer.history.recorded) == (2, 0, 0)


def test_nothing_known_gets_what_is_popular_and_says_why(shop: Serving) -> None:
    answer = ask(shop.primary, page_size=3)
    assert all(name.startswith(("best-", "phone-", "case-")) for name in names(answer))
    assert (answer.receipt.tier, answer.receipt.reason) == (pb.TIER_POPULARITY, pb.REASON_HISTORY)
    # As the card measured it beside the best tier.
    assert answer.receipt.expected_ndcg == pytest.approx(0.1 / 0.5)
    strangers = ask(shop.primary, "never-heard-of", "nor-of-this", page_size=3)
    assert names(strangers) == names(answer)
    assert (strangers.history.used, strangers.history.unknown) == (0, 2)
    # An unknown shopper is nobody's mistake.
    assert names(ask(shop.primary, shopper_id="nobody", page_size=3)) == names(answer)


def test_what_the_catalogue_does_not_hold_is_never_shown(shop: Serving) -> None:
    answer = ask(shop.primary, "phone-0", "case-0", page_size=100)
    assert "gone-0" not in names(answer)
    known = {event.upsert.product_id for event in tiny_section.catalogue()}
    assert set(names(answer)) == known - {"phone-0", "case-0"}
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)


def test_a_deleted_product_leaves_the_next_answer(shop: Serving) -> None:
    extra = catalogue_pb2.Product(
        product_id="case-10", title="blue case for phone 10", brand="Bolt", price=20
    )
    assert names(ask(shop.primary, "phone-10"))[0] == "case-10"
    deleted = catalogue_pb2.Event(
        event_id=f"delete-{time.monotonic_ns()}", delete=catalogue_pb2.Delete(product_id="case-10")
    )
    sequence = shop.primary.apply(deleted).sequence
    assert "case-10" not in names(ask(shop.primary, "phone-10", page_size=100, min_sequence=sequence))
    back = catalogue_pb2.Event(event_id=f"back-{time.monotonic_ns()}", upsert=extra)
    sequence = shop.primary.apply(back).sequence
    assert names(ask(shop.primary, "phone-10", min_sequence=sequence))[0] == "case-10"


def test_products_that_are_newer_than_the_section_come_by_their_texts(shop: Serving) -> None:
    answer = ask(shop.primary, "fresh-1", page_size=10, explain=True)
    # The section knows nothing of it: texts alone tell.
    assert (answer.receipt.tier, answer.receipt.reason) == (pb.TIER_SIMILAR, pb.REASON_HISTORY)
    assert answer.receipt.expected_ndcg == pytest.approx(0.2 / 0.5)
    assert {part.source for result in answer.results for part in result.because} <= {"similar", "popularity"}
    among = ask(shop.primary, "phone-1", page_size=100, explain=True)
    fresh = {result.product_id: result for result in among.results if result.product_id.startswith("fresh-")}
    assert set(fresh) == {"fresh-0", "fresh-1", "fresh-2"}


def test_filters_hold_at_every_tier(shop: Serving) -> None:
    for history in ((), ("fresh-1",), ("phone-3", "phone-4")):
        answer = ask(shop.primary, *history, page_size=100, filter=pb.Filter(brands=["bolt"], price_max=50))
        assert answer.results
        assert all(result.brand == "Bolt" and result.price <= 50 for result in answer.results)
    none = ask(shop.primary, "phone-3", filter=pb.Filter(brands=["nobody"]))
    assert not none.results


def test_repeats_may_be_asked_for(shop: Serving) -> None:
    assert "case-3" not in names(ask(shop.primary, "phone-3", "case-3", page_size=100))
    assert "case-3" in names(ask(shop.primary, "phone-3", "case-3", page_size=100, repeats=True))


def test_a_history_is_read_by_time_and_the_newest_of_it_counts(shop: Serving) -> None:
    def timed(*pairs: tuple[str, int]) -> pb.RecommendRequest:
        history = [pb.HistoryItem(product_id=name, occurred_unix_us=at) for name, at in pairs]
        return pb.RecommendRequest(history=history, page_size=3)

    forward = shop.primary.ranking.Recommend(timed(("best-0", 10), ("phone-5", 20)), timeout=10)
    backward = shop.primary.ranking.Recommend(timed(("phone-5", 20), ("best-0", 10)), timeout=10)
    assert names(forward) == names(backward)
    assert names(forward)[0] == "case-5"
    future = (1 << 64) - 1
    late = shop.primary.ranking.Recommend(timed(("phone-5", future), ("best-0", 10)), timeout=10)
    assert names(late) == names(forward)
    long = ask(shop.primary, *(f"phone-{n}" for n in range(11)))
    assert (long.history.used, long.history.left_out) == (tiny_section.HISTORY_MAX, 5)


def test_an_endless_history_is_refused_and_one_at_the_limit_is_not(shop: Serving) -> None:
    assert ask(shop.primary, *["phone-1"] * 1_000).history.used == 1
    with pytest.raises(grpc.RpcError) as caught:
        ask(shop.primary, *["phone-1"] * 1_001)
    assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", ["history"])


def test_every_field_that_is_wrong_is_named_and_no_name_is_repeated(shop: Serving) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(
            shop.primary,
            "",
            shopper_id="secret-name" * 30,
            page_size=101,
            diversity=1.5,
            filter=pb.Filter(price_min=-1),
        )
    code, _, fields = refusal(caught.value)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert fields == ["shopper_id", "history[0].product_id", "page_size", "diversity", "filter.price_min"]
    assert "secret-name" not in str(caught.value)
    with pytest.raises(grpc.RpcError) as caught:
        shop.primary.ranking.Recommend(
            pb.RecommendRequest(), timeout=10, metadata=(("muster-priority", "urgent"),)
        )
    assert refusal(caught.value)[2] == ["muster-priority"]


def test_a_deadline_that_has_passed_and_a_sequence_that_never_comes_are_refused(shop: Serving) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shop.primary.ranking.Recommend(
            pb.RecommendRequest(),
            timeout=5,
            metadata=(("muster-deadline-unix-us", str(time.time_ns() // 1000 - 1)),),
        )
    assert refusal(caught.value)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as caught:
        ask(shop.primary, timeout=0.5, min_sequence=1 << 40)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_recommendations_that_wait_hold_no_thread_and_see_what_they_waited_for(shop: Serving) -> None:
    applied = shop.primary.status().applied_sequence
    request = pb.RecommendRequest(shopper_id="hanna", page_size=3, min_sequence=applied + 1)
    # More of them than there are handler threads.
    waiting = [shop.standby.ranking.Recommend.future(request, timeout=20) for _ in range(100)]
    assert shop.standby.health("muster.v1.RankingService")
    assert names(ask(shop.standby, "phone-3"))[0] == "case-3"
    record(shop, feedback("click", "phone-5", shopper_id="hanna"))
    for call in waiting:
        answer = call.result()
        assert (names(answer)[0], answer.history.recorded) == ("case-5", 1)


def test_diversity_spreads_the_results(shop: Serving) -> None:
    def kinds(diversity: float) -> int:
        found = ask(shop.primary, "phone-3", "phone-6", page_size=6, diversity=diversity).results
        assert len(found) == 6
        # "red phone", "blue case", "wireless mouse".
        return len({result.title.split()[0] for result in found})

    assert kinds(0.7) > kinds(0.0)
    assert names(ask(shop.primary, "phone-3", diversity=0.0)) == names(ask(shop.primary, "phone-3"))


def test_a_click_changes_the_next_answer_on_every_replica(shop: Serving) -> None:
    before = ask(shop.primary, shopper_id="ada", page_size=3)
    assert before.receipt.tier == pb.TIER_POPULARITY
    sequence = record(shop, feedback("click", "phone-7", receipt=before.receipt, shopper_id="ada"))
    for replica in (shop.primary, shop.standby):
        after = ask(replica, shopper_id="ada", page_size=3, min_sequence=sequence)
        assert names(after)[0] == "case-7"
        assert (after.history.used, after.history.recorded) == (1, 1)
    # What the request tells itself is not counted twice, and goes after what feedback told.
    both = ask(shop.primary, "phone-8", shopper_id="ada", page_size=3)
    assert names(both)[0] == "case-8"
    assert (both.history.used, both.history.recorded) == (2, 1)
    # The receipt of a recommendation is one that feedback may name.
    kept = [event.event.feedback for event in watched(shop, sequence)]
    assert [one.receipt for one in kept] == [feedback_pb2.RECEIPT_STATE_KNOWN]


def watched(shop: Serving, sequence: int) -> list[catalogue_pb2.SequencedEvent]:
    stream = shop.primary.catalogue.Watch(catalogue_pb2.WatchRequest(from_sequence=sequence), timeout=10)
    first = next(iter(stream)).event
    stream.cancel()
    return [first]


def test_a_visit_is_remembered_without_a_shopper_and_a_view_tells_nothing(shop: Serving) -> None:
    sequence = record(
        shop, feedback("view", "phone-1", session_id="visit"), feedback("cart", "phone-2", session_id="visit")
    )
    answer = ask(shop.standby, session_id="visit", page_size=3, min_sequence=sequence)
    assert names(answer)[0] == "case-2"
    assert answer.history.used == 1
    assert ask(shop.standby, shopper_id="visit", min_sequence=sequence).history.used == 0


def test_an_erased_shopper_is_remembered_nowhere(shop: Serving) -> None:
    sequence = record(shop, feedback("buy", "phone-9", shopper_id="bea"))
    assert ask(shop.standby, shopper_id="bea", min_sequence=sequence).history.used == 1
    shop.primary.admin.EraseShopper(admin_pb2.EraseShopperRequest(shopper_id="bea"), timeout=20)
    for replica in (shop.primary, shop.standby):
        assert ask(replica, shopper_id="bea").history.used == 0


def test_each_result_says_what_brought_it(shop: Serving) -> None:
    answer = ask(shop.primary, "best-1", "phone-3", page_size=1, explain=True)
    (result,) = answer.results
    assert (result.because[0].product_id, result.because[0].title) == ("phone-3", "red phone 3")
    words = brought(plain(result))
    assert words.startswith("Shown because it is often taken")
    assert "red phone 3" in words
    assert "(phone-3)" in brought_sum(plain(result))
    assert result.HasField("base_score")
    told = result.base_score + sum(signal.contribution for signal in result.signals)
    assert told == pytest.approx(result.score)


def test_answers_are_counted_by_tier(shop: Serving) -> None:
    ask(shop.primary, "phone-3")
    found = re.search(r"metrics on port (\d+)", shop.primary.log())
    assert found is not None
    page = urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=5).read().decode()
    assert 'muster_recommended_total{tier="ordered"}' in page
    assert 'method="Recommend"' in page


def test_a_replica_that_starts_remembers_what_the_log_still_holds(shop: Serving) -> None:
    sequence = record(shop, feedback("buy", "phone-4", shopper_id="cid"))
    with Replica(shop.bundle, shop.data_dir, "late", {**SETTINGS, "lease.eligible": "false"}) as replica:
        replica.wait_serving()
        answer = ask(replica, shopper_id="cid", page_size=3, min_sequence=sequence)
        assert names(answer)[0] == "case-4"


def test_without_a_section_texts_and_the_catalogue_answer_and_say_so(pair: Pair) -> None:
    answer = ask(pair.primary, "red-3", page_size=4)
    assert (answer.receipt.tier, answer.receipt.reason) == (pb.TIER_SIMILAR, pb.REASON_DEPENDENCY)
    assert len(names(answer)) == 4
    assert "red-3" not in names(answer)
    nothing = ask(pair.primary, page_size=4)
    assert (nothing.receipt.tier, nothing.receipt.reason) == (pb.TIER_POPULARITY, pb.REASON_DEPENDENCY)
    assert len(names(nothing)) == 4


def test_an_empty_catalogue_has_nothing_to_recommend(bundle: Path, tmp_path: Path) -> None:
    with Replica(bundle, tmp_path / "data", "lone", {"generation.rebuild": "false"}) as replica:
        replica.wait_serving()
        answer = ask(replica, "anything")
        assert not answer.results
        assert answer.history.unknown == 1
