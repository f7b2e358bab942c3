"""Exposure of groups of products in rankings, and an order that bounds how far a group may fall behind.

Source: Singh & Joachims 2018, "Fairness of Exposure in Rankings", arXiv:1802.07281: a place is worth
1 / log2(1 + place), and a group's exposure is held against its merit, here the gains of the judgements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

CUTOFF = 10


def weights(places: int) -> NDArray[np.float64]:
    """What each place is worth, from the first on; float64 [places]."""
    return 1.0 / np.log2(np.arange(2, places + 2, dtype=np.float64))


def exposures(order: Sequence[str], group_of: Mapping[str, str], *, places: int = CUTOFF) -> dict[str, float]:
    """Exposure of each group in the first places of one order; products without a group are left out."""
    found: dict[str, float] = {}
    for product, weight in zip(order[:places], weights(places), strict=False):
        if product in group_of:
            group = group_of[product]
            found[group] = found.get(group, 0.0) + float(weight)
    return found


def bounded(
    order: Sequence[str], group_of: Mapping[str, str], *, floor: float, places: int = CUTOFF
) -> list[str]:
    """The order with a bound: at each place a group that lags behind `floor` times its share goes first.

    order: best first. group_of: product to group; one without a group is in none that is owed anything.
    floor: 0 to 1; 0 leaves the order as it is. A group's share is its share of all candidates in the order. A
    place is given to the group whose exposure so far lags most behind floor * share * (exposure given so far
    and now), if one lags by more than half of what the place is worth; its best product is taken, so within a
    group nothing changes. Below `places` the rest follows as it was. Raises: ValueError for another floor.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be from 0 to 1, not {floor}")
    left = list(order)
    sizes: dict[str, int] = {}
    for product in left:
        if product in group_of:
            sizes[group_of[product]] = sizes.get(group_of[product], 0) + 1
    given = dict.fromkeys(sizes, 0.0)
    chosen: list[str] = []
    total = 0.0
    for weight in weights(min(places, len(left))):
        total += float(weight)
        waiting = {group_of[product] for product in left if product in group_of}
        lags = {
            group: floor * size / len(order) * total - given[group]
            for group, size in sizes.items()
            if group in waiting
        }
        # Ties go to the name, so that the order does not depend on the hash of texts.
        owed = max(lags, key=lambda group: (lags[group], group), default=None)
        taken = 0
        if owed is not None and lags[owed] > 0.5 * weight:
            taken = next(at for at, product in enumerate(left) if group_of.get(product) == owed)
        product = left.pop(taken)
        chosen.append(product)
        if product in group_of:
            given[group_of[product]] += float(weight)
    return chosen + left
