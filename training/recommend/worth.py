"""What the tiers of `Recommend` are worth: nDCG@10 on the validation of what each would have answered, for
the card, from which receipts tell it.

The tier `similar` reads texts by their vectors. Here these are the training encoder's; a replica uses those
of its bundle, so its figure is of the same kind, and not of the same vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.recommend.behaviour import Cases, Items
from training.recommend.measured import interval_of, ndcg, target_ranks
from training.recommend.mixture import (
    FromPopularity,
    FromTable,
    Source,
    chunks,
    mixed,
    shares_of,
    source_ranks,
    strip,
)
from training.recommend.recipe import RecommendRecipe

POPULARITY, SIMILAR, MIXTURE, SEQUENCE, ORDERED = "popularity", "similar", "mixture", "sequence", "ordered"
SIMILAR_HISTORY = 10
"""Products of a history whose texts are compared, the latest; the i-th from the end counts 1 / i."""


class FromTexts:
    """The nearest texts, as the tier `similar` has them. vectors: float32 [items, H], of length 1, or 0 where
    there is no text.
    """

    name = SIMILAR
    doubt = 0.0

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `Source`."""
        wanted = np.zeros((len(histories), self._vectors.shape[1]), dtype=np.float32)
        for row, history in enumerate(histories):
            latest = history[::-1][:SIMILAR_HISTORY]
            weights = 1.0 / np.arange(1, len(latest) + 1, dtype=np.float32)
            wanted[row] = weights @ self._vectors[latest]
        found: NDArray[np.float32] = np.maximum(wanted @ self._vectors.T, np.float32(0.0))
        return found


def tier_worths(
    recipe: RecommendRecipe,
    sources: Sequence[Source],
    weights: NDArray[np.float64],
    texts: NDArray[np.float32] | None,
    cases: Cases,
    order: dict[str, Any],
    *,
    tick: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """nDCG@10 of each tier with its interval, by name; a tier that the section lacks, or that nothing
    measures, is left out.

    order: what was measured of the final order: its own figure, out of fold, and the whole mixture's. tick:
    told of cases done.
    """

    def estimate(ranks: NDArray[np.int64]) -> dict[str, float]:
        return interval_of(ndcg(ranks), seed=recipe.seed, rounds=recipe.bootstrap).rounded()

    found: dict[str, dict[str, float]] = {}
    for source in sources:
        if isinstance(source, FromPopularity):
            found[POPULARITY] = estimate(source_ranks(source, cases, repeats=recipe.repeats))
    if texts is not None:
        found[SIMILAR] = estimate(source_ranks(FromTexts(texts), cases, repeats=recipe.repeats))
    cheap = [at for at, one in enumerate(sources) if isinstance(one, FromTable | FromPopularity)]
    if len(cheap) == len(sources):
        found[MIXTURE] = order["mixture_ndcg10"]
    else:
        ranks = mixture_ranks([sources[at] for at in cheap], weights[cheap], cases, recipe.repeats, tick)
        found[MIXTURE] = estimate(ranks)
        found[SEQUENCE] = order["mixture_ndcg10"]
    if order["earned"]:
        found[ORDERED] = order["ordered_ndcg10"]
    return found


def mixture_ranks(
    sources: Sequence[Source],
    weights: NDArray[np.float64],
    cases: Cases,
    repeats: bool,
    tick: Callable[[int], object] = lambda _: None,
) -> NDArray[np.int64]:
    """Ranks of the targets among all items by a mixture: int64 [cases]."""
    found = np.empty(len(cases), dtype=np.int64)
    for part in chunks(len(cases)):
        histories = cases.histories[part]
        scores = mixed(shares_of(sources, histories, repeats), weights)
        if not repeats:
            strip(scores, histories, -np.inf)
        found[part] = target_ranks(scores, cases.targets[part])
        tick(len(histories))
    return found
