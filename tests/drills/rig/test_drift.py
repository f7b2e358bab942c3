from __future__ import annotations

import pytest

from drills.rig.drift import (
    MOVED,
    Demand,
    backwards,
    highest_index,
    moved_product,
    moved_query,
    read_samples,
    referenced,
)
from drills.rig.shop import Query
from muster.v1 import catalogue_pb2

PAGE = """# HELP muster_drift Population stability index
# TYPE muster_drift gauge
muster_drift{distribution="words"} 0.03
muster_drift{distribution="top"} 0.4
muster_drift_reference_answers 300.0
muster_price 0.0
"""


def test_moved_words_are_new_and_the_rest_stays() -> None:
    assert backwards("Red USB-C kettle, 1.7 litre") == "der bsu-c elttek, 1.7 ertil"


def test_what_is_relevant_to_a_moved_query_are_the_moved_products() -> None:
    product = catalogue_pb2.Product(
        product_id="P1", title="Red kettle", price=10.0, category=["Home"], bullets=["Made to last"]
    )
    moved = moved_product(product)
    assert (moved.product_id, moved.title, moved.price) == (f"{MOVED}P1", "der elttek", 30.0)
    assert (list(moved.category), list(moved.bullets)) == (["emoh"], ["edam ot tsal"])
    query = moved_query(Query("red kettle", "made up", {"P1": 3.0}))
    assert (query.text, query.relevant()) == ("der elttek", {moved.product_id})
    assert product.title == "Red kettle"


@pytest.mark.parametrize("share", [0.0, 1 / 6, 0.5, 1.0])
def test_the_demand_moves_by_the_share_that_was_asked_for(share: float) -> None:
    usual = [Query(f"u{number}", "") for number in range(20)]
    moved = [Query(f"m{number}", "") for number in range(20)]
    demand = Demand(usual, moved)
    demand.share = share
    sample = demand.sample(600)
    assert sum(query.text.startswith("m") for query in sample) == pytest.approx(600 * share, abs=1)
    if share < 1:
        assert {query.text for query in sample} >= {query.text for query in usual}


def test_the_highest_index_of_any_replica_is_told() -> None:
    page = read_samples(PAGE)
    assert page["muster_price"] == {"": 0.0}
    assert highest_index([page, {}]) == 0.4
    assert highest_index([{}]) is None


def test_a_reference_counts_once_every_replica_has_one() -> None:
    page = read_samples(PAGE)
    assert referenced([page, page])
    assert not referenced([page, {}])
    assert not referenced([])
