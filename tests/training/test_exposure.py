"""Exposure, and the order that bounds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.exposure import CUTOFF, bounded, exposures, weights
from training.fairness import OTHERS, group_figures, pooled

ORDERS = st.integers(1, 40).flatmap(
    lambda size: st.tuples(
        st.permutations([f"p{number}" for number in range(size)]),
        st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=size, max_size=size),
    )
)


def grouped(order: list[str], names: list[str]) -> dict[str, str]:
    return {product: name for product, name in zip(sorted(order), names, strict=True) if name}


@given(ORDERS, st.floats(0, 1))
def test_the_bounded_order_holds_the_same_products_and_keeps_each_groups_own_order(
    drawn: tuple[list[str], list[str]], floor: float
) -> None:
    order, group_of = drawn[0], grouped(*drawn)
    found = bounded(order, group_of, floor=floor)
    assert sorted(found) == sorted(order)
    for name in (None, *set(group_of.values())):
        own = [product for product in order if group_of.get(product) == name]
        assert [product for product in found if group_of.get(product) == name] == own


@given(ORDERS)
def test_without_a_floor_nothing_moves(drawn: tuple[list[str], list[str]]) -> None:
    assert bounded(drawn[0], grouped(*drawn), floor=0.0) == drawn[0]


@pytest.mark.parametrize("floor", [0.5, 0.8, 1.0])
def test_a_group_that_stands_last_gets_its_floor_but_for_half_of_the_first_place(floor: float) -> None:
    order = [f"a{number}" for number in range(20)] + [f"b{number}" for number in range(20)]
    group_of = {product: product[0] for product in order}
    assert "b" not in exposures(order, group_of)
    shown = exposures(bounded(order, group_of, floor=floor), group_of)
    total = float(weights(CUTOFF).sum())
    assert shown["b"] >= floor * 0.5 * total - 0.5 - 1e-9


def test_a_floor_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="floor"):
        bounded(["p"], {}, floor=1.5)


def test_small_groups_are_told_together() -> None:
    gains = {f"q{number}": {"x1": 1.0, "x2": 0.5, "y1": 1.0} for number in range(5)}
    groups = {"x1": "x", "x2": "x", "y1": "y", "z1": "z"}
    found = pooled(groups, gains, products_min=2, queries_min=5)
    assert found == {"x1": "x", "x2": "x", "y1": OTHERS, "z1": OTHERS}


def test_a_group_that_is_shown_as_it_deserves_has_the_ratio_one() -> None:
    gains = {f"q{number}": {"x": 1.0, "y": 1.0} for number in range(8)}
    orders = {query: ["x", "y"] if number % 2 else ["y", "x"] for number, query in enumerate(gains)}
    told = group_figures(orders, gains, {"x": "x", "y": "y"}, seed=1, rounds=200)
    for one in told:
        assert one["merit"] == 0.5 and one["exposure"] == 0.5
        ratio = one["exposure_to_merit"]
        assert ratio["ratio"] == 1.0 and ratio["low"] < 1.0 < ratio["high"]
        assert one["ndcg10"]["ndcg10"] == 1.0
    first = {query: ["x", "y"] for query in gains}
    ratios = {
        one["group"]: one["exposure_to_merit"]["ratio"]
        for one in group_figures(first, gains, {"x": "x", "y": "y"}, seed=1, rounds=200)
    }
    assert ratios["x"] > 1.2 and ratios["y"] < 0.8
