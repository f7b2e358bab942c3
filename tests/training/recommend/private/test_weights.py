"""The sources that serve shoppers best are found through little noise, and not through much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from training.recommend.behaviour import Cases, Items
from training.recommend.private.noise import Noise
from training.recommend.private.weights import mixtures, private_weights, shopper_gains

SECRET = bytes(range(32))
ITEMS, SHOPPERS = 40, 300
TARGETS = np.random.default_rng(1).integers(1, ITEMS, SHOPPERS)
CASES = Cases([f"u{at}" for at in range(SHOPPERS)], [np.array([0])] * SHOPPERS, TARGETS)


@dataclass(frozen=True)
class Told:
    """A source that knows the targets of some shoppers. It tells cases apart by their order."""

    name: str
    knows: NDArray[np.bool_]
    doubt: float = 0.0

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `training.recommend.mixture.Source`."""
        # Cases come in chunks of 256 and the rest.
        start = 0 if len(histories) == 256 else 256
        found = np.full((len(histories), ITEMS), 0.01, dtype=np.float32)
        found[:, 0] = 0.0
        rows = np.arange(len(histories))
        known = self.knows[start : start + len(histories)]
        found[rows[known], TARGETS[start : start + len(histories)][known]] += 5.0
        return found


HALF = np.arange(SHOPPERS) % 2 == 0
SOURCES = [Told("half", HALF), Told("rest", ~HALF), Told("nothing", np.zeros(SHOPPERS, dtype=np.bool_))]


def test_every_choice_of_sources_is_a_mixture_in_equal_parts() -> None:
    found = mixtures(3)
    assert len(found) == 7
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert sorted(set(found.ravel().tolist())) == pytest.approx([0.0, 1 / 3, 0.5, 1.0])


def test_through_little_noise_the_sources_that_know_something_are_chosen() -> None:
    found = private_weights(SOURCES, CASES, Noise(SECRET), 1.0, repeats=False)
    assert found[0] == found[1] > 0.3


def test_through_much_noise_the_choice_is_chance() -> None:
    found = {
        tuple(private_weights(SOURCES, CASES, Noise(bytes([at]) * 32), 1e6, repeats=False).tolist())
        for at in range(12)
    }
    assert len(found) > 2


def test_a_shopper_with_two_cases_is_refused() -> None:
    twice = Cases(["u"] * SHOPPERS, CASES.histories, TARGETS)
    with pytest.raises(ValueError, match="would not be bounded"):
        private_weights(SOURCES, twice, Noise(SECRET), 1.0, repeats=False)


def test_a_shopper_adds_only_what_tells_choices_apart_and_no_more_than_a_length_of_one() -> None:
    assert not shopper_gains(np.ones((1, 15))).any()
    some = np.array([[1.0] * 7 + [0.0] * 8])
    assert np.linalg.norm(shopper_gains(some)) == pytest.approx(1.0, abs=1e-3)
    little = shopper_gains(np.array([[0.25, 0.0, 0.0, 0.0]]))
    assert little[0, 0] - little[0, 1] == pytest.approx(0.25, abs=1e-3)
