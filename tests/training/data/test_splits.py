"""Sets without splits get one that follows from the words of each query alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.products import ProductFileError
from training.data.splits import split_named, split_of
from training.recipe import SplitRecipe

SHARES = SplitRecipe(train=0.6, dev=0.3, test=0.1)


def test_shares_are_kept_and_the_seed_decides() -> None:
    texts = [f"query number {at}" for at in range(3000)]
    found = [split_of(one, SHARES, 7) for one in texts]
    for split, share in (("train", 0.6), ("dev", 0.3), ("test", 0.1)):
        assert found.count(split) / len(found) == pytest.approx(share, abs=0.03)
    assert found == [split_of(one, SHARES, 7) for one in texts]
    assert found != [split_of(one, SHARES, 8) for one in texts]


def test_the_same_words_are_on_one_side_whatever_their_order() -> None:
    for at in range(50):
        assert split_of(f"Red shoes {at}", SHARES, 1) == split_of(f"{at} shoes, RED", SHARES, 1)


@pytest.mark.parametrize(
    ("written", "split"),
    [("train", "train"), ("Validation", "dev"), ("unlabeled", "unlabelled"), (None, ""), ("", "")],
)
def test_splits_are_known_by_their_usual_names(written: object, split: str) -> None:
    assert split_named(Path("q.csv"), 1, written) == split


def test_an_unknown_split_is_told_with_its_row() -> None:
    with pytest.raises(ProductFileError, match=r"q\.csv, row 3, column 'split': 'holdout' is not a split"):
        split_named(Path("q.csv"), 3, "holdout")
