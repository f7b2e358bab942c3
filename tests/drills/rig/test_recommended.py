"""Requests for recommendations beside a flood."""

from __future__ import annotations

from drills.rig.recommended import HISTORY, beside, recommend_requests
from muster.v1 import ranking_pb2


def test_histories_hold_known_products_each_once_and_are_the_same_for_the_same_seed() -> None:
    known = [f"p{number}" for number in range(20)]
    made = recommend_requests(known, 1, count=50)
    assert made == recommend_requests(known, 1, count=50) != recommend_requests(known, 2, count=50)
    for one in made:
        history = [item.product_id for item in ranking_pb2.RecommendRequest.FromString(one).history]
        assert len(history) == len(set(history)) == HISTORY
        assert set(history) <= set(known)
    assert recommend_requests([], 1, count=2) == [b"", b""]


def test_a_share_of_all_calls_is_told_for_each_search() -> None:
    assert (beside(0.0), beside(0.2), beside(0.5)) == (0.0, 0.25, 1.0)
