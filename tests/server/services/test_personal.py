"""Searches of shoppers through real servers: what feedback told moves the next answer, explained, and for
nobody who was erased.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from muster.client import Client, feedback
from muster.commands.output import plain
from muster.commands.search import explanation_lines, receipt_line
from muster.explanation import looked_at
from muster.v1 import admin_pb2
from muster.v1 import ranking_pb2 as pb
from tests.server.replica import Replica, wait_until
from tests.server.services.shop import Serving, record
from tests.server.services.test_ranking import refusal

QUERY = "blue case for phone"


def search(replica: Replica, **more: Any) -> pb.SearchResponse:
    request = pb.SearchRequest(query=QUERY, **{"page_size": 12, **more})
    answer: pb.SearchResponse = replica.ranking.Search(request, timeout=10)
    return answer


def names(answer: pb.SearchResponse) -> list[str]:
    return [result.product_id for result in answer.results]


def last(shop: Serving) -> str:
    """The number of the case that stands last for whom nothing is known."""
    return next(name for name in reversed(names(search(shop.primary))) if name.startswith("case-")).split(
        "-"
    )[1]


def test_a_click_changes_the_next_search_on_every_replica(shop: Serving) -> None:
    number = last(shop)
    before = search(shop.primary, shopper_id="dora")
    assert before.receipt.taste == pb.TASTE_UNKNOWN
    assert names(before) == names(search(shop.primary))
    record(shop, feedback("click", f"phone-{number}", receipt=before.receipt, shopper_id="dora"))
    for replica in (shop.primary, shop.standby):
        # Nothing is asked for but the shopper's own search, again and again.
        wait_until(
            lambda: search(replica, shopper_id="dora").receipt.taste == pb.TASTE_APPLIED,  # noqa: B023
            "the click is seen",
        )
        after = search(replica, shopper_id="dora")
        place = f"case-{number}"
        assert names(after).index(place) < names(before).index(place)
        assert (after.history.used, after.history.recorded) == (1, 1)
        # Somebody else's search is what it was.
        assert names(search(replica, shopper_id="somebody")) == names(before)
        assert names(search(replica)) == names(before)


def test_whoever_asks_for_a_sequence_sees_the_feedback_before_it(shop: Serving) -> None:
    for at in range(10):
        sequence = record(shop, feedback("cart", f"phone-{at}", session_id=f"visit-{at}"))
        answer = search(shop.standby, session_id=f"visit-{at}", min_sequence=sequence)
        assert (answer.history.used, answer.history.recorded) == (1, 1)
        assert search(shop.standby, shopper_id=f"visit-{at}").history.used == 0


def test_the_erased_and_the_unheard_of_are_answered_alike(shop: Serving) -> None:
    number = last(shop)
    sequence = record(shop, feedback("buy", f"phone-{number}", shopper_id="eva"))
    told = search(shop.standby, shopper_id="eva", min_sequence=sequence)
    assert told.receipt.taste == pb.TASTE_APPLIED
    shop.primary.admin.EraseShopper(admin_pb2.EraseShopperRequest(shopper_id="eva"), timeout=20)
    for replica in (shop.primary, shop.standby):
        erased, unheard = (search(replica, shopper_id=name) for name in ("eva", "nobody-at-all"))
        assert erased.receipt.taste == unheard.receipt.taste == pb.TASTE_UNKNOWN
        assert erased.history == unheard.history
        assert erased.results == unheard.results


def test_what_is_wrong_is_named_and_no_name_is_repeated(shop: Serving) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        search(
            shop.primary,
            shopper_id="secret-name" * 30,
            session_id="secret-name" * 30,
            history=[pb.HistoryItem(product_id="")],
        )
    code, _, fields = refusal(caught.value)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert fields == ["shopper_id", "session_id", "history[0].product_id"]
    assert "secret-name" not in str(caught.value)
    with pytest.raises(grpc.RpcError) as caught:
        search(shop.primary, history=[pb.HistoryItem(product_id="p")] * 1_001)
    assert refusal(caught.value)[2] == ["history"]


def test_a_history_that_tells_nothing_apart_says_so(shop: Serving) -> None:
    answer = search(shop.primary, history=[pb.HistoryItem(product_id="unheard-of")])
    assert answer.receipt.taste == pb.TASTE_UNRELATED
    assert (answer.history.used, answer.history.unknown) == (0, 1)


def test_the_explanation_says_what_was_looked_at(shop: Serving) -> None:
    number = last(shop)
    with Client([shop.primary.address]) as client:
        answer = plain(client.search(QUERY, history=[f"phone-{number}"], page_size=12, explain=True))
    (moved,) = [one for one in answer["results"] if one["product_id"] == f"case-{number}"]
    assert looked_at(moved).startswith(f"You looked at red phone {number} (")
    told = moved["base_score"] + sum(
        signal["contribution"] for signal in moved["signals"] if "contribution" in signal
    )
    assert told == pytest.approx(moved["score"])
    assert any("You looked at" in line for line in explanation_lines(moved))
    assert receipt_line(answer["receipt"], 1.0, 50.0).endswith("in the order of the shopper")
