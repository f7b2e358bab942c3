"""Splits by query: what a file calls a split, and a split of our own for sets that have none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from muster.products import ProductFileError
from training.data.leakage import words
from training.data.tables import DEV, TEST, TRAIN, UNLABELLED
from training.recipe import SplitRecipe

_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "dev": DEV,
    "val": DEV,
    "valid": DEV,
    "validation": DEV,
    "test": TEST,
    "unlabeled": UNLABELLED,
    "unlabelled": UNLABELLED,
}


def split_named(path: Path, row: int, name: object) -> str:
    """Our name of a split as a file writes it; "" where the row names none.

    Raises: ProductFileError naming the row.
    """
    if name is None or name == "":
        return ""
    known = _NAMES.get(str(name).strip().lower())
    if known is None:
        raise ProductFileError(
            path,
            f"{name!r} is not a split",
            f"Write one of {', '.join(_NAMES)}, or leave the column out to have the set split",
            row=row,
            column="split",
        )
    return known


def split_of(text: str, shares: SplitRecipe, seed: int) -> str:
    """The split of a text, from its words alone: the same words are on one side, in whichever set."""
    digest = hashlib.sha256(f"{seed}/split/{' '.join(sorted(words(text)))}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.test:
        return TEST
    return DEV if place < shares.test + shares.dev else TRAIN
