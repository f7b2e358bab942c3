"""How far the searches have moved from those that a bundle was first asked."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.drift import Drift, DriftPolicy, read_reference, stability_index

POLICY = DriftPolicy(reference_answers=1000, window_s=60.0, window_answers=500)
BINS = 12
histograms = st.lists(st.integers(0, 10_000), min_size=BINS, max_size=BINS).filter(any)


class Traffic:
    """Counts that grow, as the ranking core keeps them."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.counts = {"words": [0] * BINS, "match": [0] * BINS}

    def asked(self, searches: int, centre: float) -> dict[str, list[int]]:
        """So many more searches whose match lies around ``centre``, in bins."""
        for _ in range(searches):
            self.counts["words"][self._random.randrange(1, 4)] += 1
            place = round(self._random.gauss(centre, 1.5))
            self.counts["match"][min(BINS - 1, max(0, place))] += 1
        return {name: list(seen) for name, seen in self.counts.items()}


@given(histograms, histograms)
def test_the_index_is_never_negative_and_the_same_both_ways(one: list[int], other: list[int]) -> None:
    assert stability_index(one, other) >= 0.0
    assert stability_index(one, other) == pytest.approx(stability_index(other, one))
    assert stability_index(one, one) == pytest.approx(0.0)


def test_the_index_is_that_of_the_source_worked_by_hand() -> None:
    # Shares .5, .5 against .25, .75, up to the half count in each bin.
    assert stability_index([50_000, 50_000], [25_000, 75_000]) == pytest.approx(0.2746, abs=1e-3)


@pytest.mark.parametrize(("one", "other"), [([1], [1, 2]), ([0, 0], [1, 2]), ([1, 2], [0, 0]), ([], [])])
def test_histograms_that_cannot_be_compared_are_refused(one: list[int], other: list[int]) -> None:
    with pytest.raises(ValueError, match="histograms"):
        stability_index(one, other)


def test_the_first_searches_become_the_reference_and_like_ones_do_not_drift(tmp_path: Path) -> None:
    drift, traffic = Drift(tmp_path / "drift", POLICY), Traffic()
    assert drift.look(0.0, "b1", traffic.asked(0, 6.0)).reference == 0
    assert drift.look(10.0, "b1", traffic.asked(900, 6.0)).reference == 0
    assert drift.look(20.0, "b1", traffic.asked(200, 6.0)).reference == 1100
    for step in range(1, 20):
        found = drift.look(20.0 + 10.0 * step, "b1", traffic.asked(300, 6.0))
        assert max(found.index.values(), default=0.0) < 0.1
    assert set(found.index) == {"words", "match"}


def test_searches_that_match_worse_drift_in_that_distribution_alone(tmp_path: Path) -> None:
    drift, traffic = Drift(tmp_path, POLICY), Traffic()
    drift.look(0.0, "b1", traffic.asked(0, 6.0))
    drift.look(10.0, "b1", traffic.asked(2000, 6.0))
    indices = [drift.look(10.0 + 10.0 * step, "b1", traffic.asked(300, 4.0)).index for step in range(1, 15)]
    assert indices[-1]["match"] > 0.25
    assert indices[-1]["words"] < 0.05
    for step in range(15, 30):
        found = drift.look(10.0 + 10.0 * step, "b1", traffic.asked(300, 6.0))
    assert found.index["match"] < 0.1


def test_too_few_searches_tell_nothing(tmp_path: Path) -> None:
    drift, traffic = Drift(tmp_path, POLICY), Traffic()
    drift.look(0.0, "b1", traffic.asked(0, 6.0))
    drift.look(10.0, "b1", traffic.asked(1000, 6.0))
    for step in range(1, 20):
        found = drift.look(10.0 + 10.0 * step, "b1", traffic.asked(10, 1.0))
    assert (found.index, found.reference) == ({}, 1000)


def test_the_reference_outlives_a_restart_and_is_taken_anew_where_it_was_removed(tmp_path: Path) -> None:
    first = Drift(tmp_path, POLICY)
    before = Traffic()
    first.look(0.0, "b1", before.asked(0, 6.0))
    first.look(10.0, "b1", before.asked(1500, 6.0))
    again, traffic = Drift(tmp_path, POLICY), Traffic(2)
    again.look(0.0, "b1", traffic.asked(0, 3.0))
    found = again.look(10.0, "b1", traffic.asked(600, 3.0))
    assert found.reference == 1500
    assert found.index["match"] > 0.25
    again.path("b1").unlink()
    # What was asked so far is no 1,000 searches.
    assert again.look(20.0, "b1", traffic.asked(100, 3.0)).reference == 0
    assert again.look(30.0, "b1", traffic.asked(600, 3.0)).reference >= 1000
    assert again.look(40.0, "b1", traffic.asked(600, 3.0)).index["match"] < 0.1


def test_another_bundle_has_a_reference_of_its_own(tmp_path: Path) -> None:
    drift, traffic = Drift(tmp_path, POLICY), Traffic()
    drift.look(0.0, "b1", traffic.asked(0, 6.0))
    drift.look(10.0, "b1", traffic.asked(1500, 6.0))
    other = Traffic(3)
    assert drift.look(20.0, "b2", other.asked(10, 3.0)).reference == 0
    assert drift.look(30.0, "b2", other.asked(1000, 3.0)).reference >= 1000
    assert drift.look(40.0, "b2", other.asked(600, 3.0)).index["match"] < 0.1


@pytest.mark.parametrize("text", ["", "[]", '{"words": "many"}', '{"words": [1, -2]}', "\x00"])
def test_a_file_that_is_no_reference_is_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b1.json"
    path.write_text(text, encoding="utf-8")
    assert read_reference(path) is None


def test_a_folder_that_cannot_be_written_tells_nothing_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "drift").write_text("a file, no folder", encoding="utf-8")
    drift, traffic = Drift(tmp_path / "drift", POLICY), Traffic()
    drift.look(0.0, "b1", traffic.asked(0, 6.0))
    assert drift.look(10.0, "b1", traffic.asked(1500, 6.0)).reference == 0
