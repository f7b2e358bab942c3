"""One shopper changes a sum by no more than was declared, whatever he took."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.recommend.behaviour import Behaviour, Cases
from training.recommend.private.bounded import (
    SENSITIVITY,
    shopper_sequences,
    step_sums,
    taken_sums,
)
from training.recommend.private.noise import GRID
from training.recommend.private.weights import shopper_gains

ITEMS = 7
SEQUENCES = st.lists(st.integers(0, ITEMS - 1), max_size=12)
SHOPPERS = st.lists(SEQUENCES, min_size=1, max_size=5)
SLACK = 1e-9


def _behaviour(train: list[list[int]], users: list[str]) -> Behaviour:
    nobody = Cases([], [], np.empty(0, dtype=np.int64))
    items = [np.array(one, dtype=np.int64) for one in train]
    names = [str(at) for at in range(ITEMS)]
    return Behaviour("b", "windows", names, items, items, nobody, nobody, train_users=users, shoppers=9)


def _sums(behaviour: Behaviour, contributions_max: int) -> dict[str, Any]:
    shoppers = shopper_sequences(behaviour, contributions_max)
    return {
        "taken": taken_sums(shoppers, ITEMS),
        "steps": step_sums(shoppers, ITEMS, window=4).toarray(),
    }


@settings(max_examples=60)
@given(SHOPPERS, SEQUENCES, SEQUENCES, st.integers(2, 8))
def test_files_that_differ_in_one_shopper_have_sums_that_differ_by_at_most_the_declared_sensitivity(
    others: list[list[int]], first: list[int], second: list[int], contributions_max: int
) -> None:
    users = [f"u{at % 3}" for at in range(len(others))]
    # He has two sequences, as shoppers of windows may, and took nothing in the neighbour.
    there = _behaviour([first, *others, second], ["one", *users, "one"])
    neighbour = _behaviour(others, users)
    for name, sums in _sums(there, contributions_max).items():
        changed = np.linalg.norm(sums - _sums(neighbour, contributions_max)[name])
        assert changed <= SENSITIVITY + SLACK, name


@settings(max_examples=20)
@given(SHOPPERS)
def test_sums_are_whole_steps_of_the_grid(train: list[list[int]]) -> None:
    users = [str(at) for at in range(len(train))]
    for sums in _sums(_behaviour(train, users), 8).values():
        assert (sums / GRID == np.rint(sums / GRID)).all()


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=6))
def test_a_shopper_adds_no_more_than_the_declared_sensitivity_to_the_choice_of_weights(
    found: list[list[float]],
) -> None:
    gains = shopper_gains(np.array(found))
    assert (np.linalg.norm(gains, axis=1) <= SENSITIVITY + SLACK).all()


def test_only_the_newest_items_of_a_shopper_count_over_all_of_his_sequences() -> None:
    behaviour = _behaviour([[0, 1, 2], [5], [3, 4]], ["a", "b", "a"])
    assert [one.tolist() for one in shopper_sequences(behaviour, 3)] == [[2, 3, 4], [5]]


def test_a_heavy_shopper_weighs_as_much_as_a_light_one() -> None:
    light, heavy = [np.array([0])], [np.array([1] * 40)]
    assert taken_sums(light, ITEMS).max() == taken_sums(heavy, ITEMS).max() == 1.0


def test_sequences_whose_shopper_is_unknown_are_refused() -> None:
    behaviour = replace(_behaviour([[0, 1]], ["a"]), train_users=[])
    with pytest.raises(ValueError, match="zip"):
        shopper_sequences(behaviour, 3)
