"""Tables hold what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from training.recommend.tables import (
    Table,
    closed_form,
    equal_rows,
    keep_largest,
    similar_attributes,
    similar_texts,
    steps,
    table_evidence,
    taken_by,
    together,
)

SEQUENCES = [np.array([0, 1, 2]), np.array([0, 1]), np.array([3, 1, 0])]


def test_steps_count_what_followed_and_nearer_steps_count_more() -> None:
    counted = steps(SEQUENCES, 4, window=5).toarray()
    assert counted[0, 1] == 2.0
    assert counted[0, 2] == pytest.approx(0.5)
    assert counted[3, 0] == pytest.approx(0.5)
    assert counted[2].sum() == 0.0
    assert steps(SEQUENCES, 4, window=1).toarray()[0, 2] == 0.0


def test_backward_steps_are_the_same_read_the_other_way() -> None:
    forward = steps(SEQUENCES, 4, window=5)
    assert (steps(SEQUENCES, 4, window=5, backward=True).toarray() == forward.T.toarray()).all()


def test_an_item_taken_twice_in_a_row_is_no_step_to_itself() -> None:
    assert steps([np.array([1, 1, 2])], 3, window=2).toarray()[1, 1] == 0.0


def test_together_is_the_cosine_of_two_items_shoppers() -> None:
    found = together(taken_by(SEQUENCES, 4)).toarray()
    assert found[0, 1] == pytest.approx(3 / 3)
    assert found[0, 2] == pytest.approx(1 / np.sqrt(3))
    assert (np.diag(found) == 0).all()


def test_the_closed_form_is_the_least_squares_solution_without_a_diagonal() -> None:
    chooser = np.random.default_rng(3)
    taken = sparse.csr_matrix((chooser.random((40, 6)) < 0.4).astype(np.float32))
    found = closed_form(taken, l2=2.0, neighbours=6).toarray()
    data = taken.toarray().astype(np.float64)
    for item in range(6):
        others = [at for at in range(6) if at != item]
        gram = data[:, others].T @ data[:, others] + 2.0 * np.eye(5)
        wanted = np.linalg.solve(gram, data[:, others].T @ data[:, item])
        # Negative weights are left out of a table.
        assert found[others, item] == pytest.approx(np.maximum(wanted, 0.0), abs=1e-5)
    assert (np.diag(found) == 0).all()


def test_the_nearest_texts_get_the_largest_shares_and_items_without_text_none() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [0, 0]], dtype=np.float32)
    found = similar_texts(vectors, neighbours=2, temperature=0.1).toarray()
    assert found[0].argmax() == 1
    assert found[:3].sum(axis=1) == pytest.approx(1.0)
    assert found[3].sum() == 0.0
    assert found[:, 3].sum() == 0.0


def test_of_items_with_the_same_attributes_the_more_popular_comes_first() -> None:
    shares = sparse.csr_matrix(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32))
    found = similar_attributes(shares, np.array([0.0, 1.0, 9.0, 50.0]), neighbours=3).toarray()
    assert found[0, 2] > found[0, 1] > found[0, 3] == 0.0


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=6), min_size=1, max_size=4), st.integers(1, 6)
)
def test_cutting_a_table_keeps_the_largest_of_each_row(rows: list[list[int]], neighbours: int) -> None:
    table = np.zeros((len(rows), 6), dtype=np.float32)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    kept = keep_largest(sparse.csr_matrix(table), neighbours).toarray()
    for before, after in zip(table, kept, strict=True):
        assert sorted(after)[::-1][:neighbours] == sorted(before)[::-1][:neighbours]
        assert ((after == before) | (after == 0)).all()


def test_evidence_adds_rows_weighted_by_how_recent_an_item_is() -> None:
    weights = sparse.csr_matrix(np.array([[0, 1, 0], [0, 0, 4], [0, 0, 0]], dtype=np.float32))
    table = Table("t", weights, recency=1.0, doubt=0.0)
    found = table_evidence(table, [np.array([0, 1]), np.array([], dtype=np.int64)], history_max=5)
    # Item 1 is the latest, item 0 one place before it.
    assert found[0] == pytest.approx([0.0, 0.5, 4.0])
    assert found[1] == pytest.approx([0.0, 0.0, 0.0])
    assert table_evidence(table, [np.array([0, 1])], history_max=1)[0] == pytest.approx([0.0, 0.0, 4.0])


def test_equal_rows_leave_empty_rows_empty() -> None:
    found = equal_rows(sparse.csr_matrix(np.array([[1, 3], [0, 0]], dtype=np.float32))).toarray()
    assert found.tolist() == [[0.25, 0.75], [0.0, 0.0]]
