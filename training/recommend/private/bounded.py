"""What each shopper may contribute: bounded, so that noise of a known size hides any one of them.

A shopper is everything that one identifier did. Two files are neighbours if they differ in what one shopper
took, be it that he took nothing in one of them; how many shoppers there are is public. Every sum here changes
between neighbours by at most SENSITIVITY (L2) for one who took nothing instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from training.recommend.behaviour import Behaviour, Items
from training.recommend.private.noise import on_grid
from training.recommend.tables import steps

SENSITIVITY = 1.0
"""L2 norm of what one shopper adds to a sum, at most."""


def shopper_sequences(behaviour: Behaviour, contributions_max: int) -> list[Items]:
    """What each shopper took, one sequence a shopper, the newest `contributions_max` items of it.

    A shopper with several sequences has them joined in the order of the file.
    """
    parts: dict[str, list[Items]] = {}
    for user, items in zip(behaviour.train_users, behaviour.train, strict=True):
        parts.setdefault(user, []).append(items)
    return [np.concatenate(one)[-contributions_max:] for one in parts.values()]


def taken_sums(shoppers: Sequence[Items], items: int) -> NDArray[np.float64]:
    """How often each item was taken, each shopper's counts scaled down to length 1: float64 [items]."""
    found = np.zeros(items)
    for one in shoppers:
        places, counts = np.unique(one, return_counts=True)
        found[places] += _scaled(counts.astype(np.float64))
    return found


def step_sums(shoppers: Sequence[Items], items: int, *, window: int) -> sparse.csr_matrix:
    """Steps from item to item (`training.recommend.tables.steps`), each shopper's scaled down to length 1.

    Returns: float64 [items, items].
    """
    found = [_steps_of(one, window) for one in shoppers if len(one) > 1]
    if not found:
        return sparse.csr_matrix((items, items))
    rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return sparse.csr_matrix((values, (rows, columns)), shape=(items, items))


def _steps_of(one: Items, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and values of one shopper."""
    # In places of the shopper's own items: of all items it would be mostly nothing.
    places, own = np.unique(one, return_inverse=True)
    few = steps([own], len(places), window=window).tocoo()
    return places[few.row], places[few.col], _scaled(few.data.astype(np.float64))


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values whose length is at most 1, on the grid of the noise."""
    return on_grid(values / max(float(np.linalg.norm(values)), SENSITIVITY))
