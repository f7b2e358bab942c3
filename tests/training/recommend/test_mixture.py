"""Mixtures: shares sum to at most 1, and the weights are the likeliest ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.recommend.behaviour import Cases, Items
from training.recommend.mixture import (
    FromPopularity,
    Source,
    fit_weights,
    mixed,
    shares_of,
    target_shares,
)


@dataclass(frozen=True)
class Fixed:
    """The same evidence for everybody."""

    values: NDArray[np.float32]
    name: str = "fixed"
    doubt: float = 0.0

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        return np.tile(self.values, (len(histories), 1))


def _floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def test_what_was_taken_is_left_out_before_shares_are_made() -> None:
    found = shares_of([Fixed(_floats(6, 3, 1))], [np.array([0])], repeats=False)
    assert found[0, 0] == pytest.approx([0.0, 0.75, 0.25])
    found = shares_of([Fixed(_floats(6, 3, 1))], [np.array([0])], repeats=True)
    assert found[0, 0] == pytest.approx([0.6, 0.3, 0.1])


def test_doubt_leaves_a_part_unsaid_and_the_less_the_more_evidence_there_is() -> None:
    little, much = Fixed(_floats(1, 1), doubt=2.0), Fixed(_floats(9, 9), doubt=2.0)
    found = shares_of([little, much], [np.array([], dtype=np.int64)], repeats=False)
    assert found[:, 0].sum(axis=1) == pytest.approx([0.5, 0.9])


def test_no_evidence_at_all_gives_shares_of_nothing() -> None:
    found = shares_of([Fixed(_floats(0, 0))], [np.array([0])], repeats=False)
    assert (found == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_no_other_weights_make_the_targets_likelier(seed: int) -> None:
    chooser = np.random.default_rng(seed)
    found = chooser.random((60, 3)) * chooser.integers(0, 2, size=(60, 3))
    if not found.any():
        return
    told = found[found.sum(axis=1) > 0]

    def likelihood(weights: NDArray[Any]) -> float:
        return float(np.log(told @ weights + 1e-12).mean())

    best = fit_weights(found, rounds=3000)
    assert best.sum() == pytest.approx(1.0)
    for _ in range(20):
        assert likelihood(chooser.dirichlet(np.ones(3))) <= likelihood(best) + 1e-4


def test_the_source_that_tells_the_truth_gets_the_weight() -> None:
    cases = Cases(["a", "b"], [np.array([0]), np.array([0])], np.array([1, 1]))
    sources: list[Source] = [Fixed(_floats(0, 9, 1)), FromPopularity(_floats(50, 1, 9))]
    weights = fit_weights(target_shares(sources, cases, repeats=False))
    assert weights[0] > 0.99
    assert mixed(shares_of(sources, cases.histories, repeats=False), weights)[0].argmax() == 1


def test_sources_that_say_nothing_of_any_target_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="nothing to mix"):
        fit_weights(np.zeros((3, 2)))
