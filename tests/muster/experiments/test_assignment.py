from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.experiments.assignment import Experiment, ExperimentRefused, credit, team_draft

HALVES = {"control": 0.5, "variant": 0.5}


def test_a_shopper_keeps_the_variant_and_experiments_are_independent() -> None:
    one, two = Experiment("one", HALVES), Experiment("two", HALVES)
    names = [f"shopper-{number}" for number in range(4_000)]
    first = [one.variant(name) for name in names]
    assert first == [Experiment("one", HALVES).variant(name) for name in names]
    both = sum(a == b for a, b in zip(first, map(two.variant, names), strict=True))
    assert 1_850 < both < 2_150
    assert 1_850 < first.count("control") < 2_150


@pytest.mark.parametrize(
    ("key", "shares"),
    [
        ("", HALVES),
        ("a b", HALVES),
        ("k", {"only": 1.0}),
        ("k", {"a": 0.5, "b": 0.4}),
        ("k", {"a": 1.0, "b": 0.0}),
        ("k", {"a": float("nan"), "b": 0.5}),
    ],
)
def test_an_impossible_experiment_is_refused(key: str, shares: dict[str, float]) -> None:
    with pytest.raises(ExperimentRefused):
        Experiment(key, shares)


def test_a_shopper_without_a_name_is_not_assigned() -> None:
    with pytest.raises(ExperimentRefused):
        Experiment("k", HALVES).variant("")


orders = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@settings(derandomize=True, max_examples=100)
@given(orders, orders, st.integers(0, 10), st.lists(st.booleans(), min_size=12, max_size=12))
def test_an_interleaving_shows_each_product_once_and_no_team_is_more_than_one_ahead(
    a: list[str], b: list[str], places: int, coin: list[bool]
) -> None:
    shown = team_draft(a, b, places=places, coin=coin)
    assert len(set(shown.order)) == len(shown.order) == min(places, len(set(a) | set(b)))
    if set(a) == set(b):
        for length in range(len(shown.team) + 1):
            assert abs(shown.team[:length].count("a") - shown.team[:length].count("b")) <= 1


def test_equal_orders_share_the_first_place_evenly() -> None:
    flips = itertools.product([True, False], repeat=2)
    first = [team_draft("xy", "xy", places=2, coin=coin).team[0] for coin in flips]
    assert first.count("a") == first.count("b") == 2


def test_credit_goes_to_the_team_of_the_clicks() -> None:
    shown = team_draft("xy", "yx", places=2, coin=[True, True])
    assert shown.order == ("x", "y")
    assert credit(shown, ["x", "x"]) == 1
    assert credit(shown, ["y"]) == -1
    assert credit(shown, ["x", "y", "z"]) == 0
