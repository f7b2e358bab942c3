"""The final order learns from signals, leaves new items where they are, and is measured on shoppers it
never saw.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recommend.behaviour import Cases
from training.recommend.order import (
    Candidates,
    first,
    ordered,
    out_of_fold,
    ranks_among,
    signals_of,
    train_order,
)
from training.recommend.recipe import OrderRecipe
from training.recommend.relations import NEW, with_new_share

RECIPE = OrderRecipe(candidates=4, folds=2, trees=10, leaves=4, rows_min=5)


def _candidates(cases: int, seed: int, *, telling: bool = True) -> tuple[Candidates, Cases]:
    """Four candidates a case; where `telling`, the target has the largest first signal, and is anywhere in
    the mixture.
    """
    chooser = np.random.default_rng(seed)
    places = np.tile(np.arange(4), (cases, 1))
    signals = chooser.normal(size=(cases, 4, 2)).astype(np.float32)
    targets = signals[..., 0].argmax(axis=1) if telling else chooser.integers(0, 4, size=cases)
    users = [f"u{at}" for at in range(cases)]
    empty = [np.array([], dtype=np.int64)] * cases
    return Candidates(places, signals, ["source", "mixture"]), Cases(users, empty, targets)


def test_a_signal_that_tells_the_target_orders_candidates_of_other_shoppers() -> None:
    found, cases = _candidates(240, 1)
    ranks = out_of_fold(RECIPE, found, cases, np.ones(4, dtype=np.float32), seed=2)
    assert float((ranks == 0).mean()) > 0.8


def test_what_cannot_be_learnt_is_not_gained_out_of_fold() -> None:
    found, cases = _candidates(400, 3, telling=False)
    ranks = out_of_fold(RECIPE, found, cases, np.ones(4, dtype=np.float32), seed=2)
    assert float((ranks == 0).mean()) == pytest.approx(0.25, abs=0.08)


def test_a_candidate_that_nobody_took_keeps_its_place() -> None:
    found, cases = _candidates(240, 1)
    model = train_order(RECIPE, found, cases.targets, np.arange(240), seed=1)
    taken = np.array([1, 1, 0, 1], dtype=np.float32)
    places = ordered(model, found.places, found.signals, taken)
    assert (places[:, 2] == 2).all()
    assert (np.sort(places, axis=1) == found.places).all()
    assert (ordered(model, found.places, found.signals, np.ones(4, dtype=np.float32))[:, 2] != 2).any()


def test_nothing_to_learn_from_is_said() -> None:
    found, cases = _candidates(4, 1)
    with pytest.raises(ValueError, match="nothing can be learnt"):
        train_order(RECIPE, found, cases.targets + 10, np.arange(4), seed=1)


def test_the_first_places_are_the_largest_scores_and_ties_go_by_place() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 0.0]], dtype=np.float32)
    assert first(scores, 3).tolist() == [[1, 2, 0]]
    assert first(scores, 9).tolist() == [[1, 2, 0, 3]]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    st.integers(1, 7),
)
def test_the_first_places_are_those_of_a_whole_stable_sort(rows: list[list[float]], count: int) -> None:
    scores = np.array(rows, dtype=np.float32)
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert first(scores, count).tolist() == wanted.tolist()


def test_ranks_among_candidates_are_places_in_their_list() -> None:
    assert ranks_among(np.array([[4, 2], [4, 2]]), np.array([2, 9]), 50).tolist() == [1, 50]


def test_signals_are_logarithms_of_shares_and_unknown_where_there_are_none() -> None:
    shares = np.array([[[0.5, 0.0, 0.5]]], dtype=np.float32)
    found = signals_of(shares, shares[0], np.array([[0, 1]]), [np.array([2])])
    assert found[0, 0] == pytest.approx([np.log(0.5), np.log(0.5), 1.0], abs=1e-6)
    assert np.isnan(found[0, 1, 0])


def test_new_items_have_at_least_their_share_of_the_mixture() -> None:
    weights = with_new_share(np.array([0.7, 0.0, 0.3]), ["later", NEW, "popularity"], 0.1)
    assert weights == pytest.approx([0.63, 0.1, 0.27])
    assert with_new_share(np.array([0.5, 0.5]), ["later", NEW], 0.1) == pytest.approx([0.5, 0.5])
    assert with_new_share(np.array([1.0]), ["later"], 0.1) == pytest.approx([1.0])
