"""Shoppers that are made up, and the orders that are compared for them."""

from __future__ import annotations

import pytest

from muster.products.synthetic import SyntheticCatalogue, grade
from training.taste import ANY, BRANDED, WEIGHTS, compared, made_up, orders, product_id, wanted

MADE = SyntheticCatalogue(400, 3)
FACTS = [MADE.facts(number) for number in range(400)]
QUERIES = MADE.queries(40)


def test_every_second_shopper_likes_a_brand_and_looked_mostly_at_it() -> None:
    shoppers = made_up(FACTS, QUERIES, 200, seed=1)
    assert shoppers == made_up(FACTS, QUERIES, 200, seed=1)
    by_id = {product_id(one.number): one for one in FACTS}
    branded = [one for one in shoppers if one.brand]
    assert len(branded) == 100
    looked = [by_id[name].brand == one.brand for one in branded for name in one.history]
    assert 0.6 < sum(looked) / len(looked) < 0.95
    for one in shoppers:
        shelves = {by_id[name].type // 5 for name in one.history}
        assert shelves == {one.query.type // 5}


def test_a_brand_is_worth_a_grade_where_a_product_is_relevant_and_nothing_elsewhere() -> None:
    shopper = next(one for one in made_up(FACTS, QUERIES, 200, seed=1) if one.brand)
    gains = wanted(shopper, FACTS)
    for one in FACTS:
        value = grade(shopper.query, one)
        expected = value + (one.brand == shopper.brand) if value else 0
        assert gains.get(product_id(one.number), 0.0) == expected


def test_orders_follow_the_weight_and_equals_keep_their_places() -> None:
    plain = [("a", 3.0), ("b", 2.0), ("c", 2.0), ("d", 1.0)]
    found = orders(plain, {"c": 0.5, "d": 2.0}, (0.25, 1.0))
    assert found[0.0] == ["a", "b", "c", "d"]
    assert found[0.25] == ["a", "c", "b", "d"]
    assert found[1.0] == ["a", "d", "c", "b"]


def test_weights_are_compared_shopper_by_shopper() -> None:
    better = {weight: {"1": 0.5, "2": 0.75} for weight in WEIGHTS}
    measured = {BRANDED: {0.0: {"1": 0.25, "2": 0.5}, **better}, ANY: {}}
    found = compared(measured, seed=1)
    assert set(found) == {BRANDED}
    assert all(one.mean == one.low == one.high == pytest.approx(0.25) for one in found[BRANDED].values())
