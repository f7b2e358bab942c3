"""The final order: LambdaMART over the first candidates of the mixture, with what each source says as its
signals.

Learnt from the validation, whose targets none of the sources knows. What it is worth is measured out of fold,
shoppers apart, before it may enter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.folds import fold_of
from training.models.forest import Rows, score, train_forest
from training.recipe import RankRecipe
from training.recommend.behaviour import Cases, Items
from training.recommend.mixture import Source, chunks, mixed, shares_of, strip
from training.recommend.recipe import OrderRecipe

_LEAST = 1e-9


@dataclass(frozen=True)
class Candidates:
    """The first candidates of each case. places: int64 [cases, n], best first; signals: float32 [cases, n,
    signals].
    """

    places: NDArray[np.int64]
    signals: NDArray[np.float32]
    names: list[str]


def signal_names(sources: Sequence[Source]) -> list[str]:
    """Of the signals that `signals_of` gives, in their order."""
    return [*(one.name for one in sources), "mixture", "history"]


def signals_of(
    shares: NDArray[np.float32],
    mixture: NDArray[np.float32],
    places: NDArray[np.int64],
    histories: Sequence[Items],
) -> NDArray[np.float32]:
    """Signals of candidates: float32 [histories, n, signals].

    shares: [sources, histories, items]; mixture: [histories, items]; places: [histories, n]. A source's
    signal is the logarithm of its share, NaN where it has none; "mixture" is that of the mixture, "history"
    the history's length in items.
    """
    at = np.arange(len(places))[:, None]
    found = np.empty((*places.shape, len(shares) + 2), dtype=np.float32)
    for number, share in enumerate(shares):
        chosen = share[at, places]
        found[..., number] = np.where(chosen > 0, np.log(np.maximum(chosen, _LEAST)), np.nan)
    found[..., -2] = np.log(np.maximum(mixture[at, places], _LEAST))
    found[..., -1] = np.array([len(one) for one in histories], dtype=np.float32)[:, None]
    return found


def first(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the largest scores of each row, best first, ties by place: int64 [rows, count]."""
    count = min(count, scores.shape[1])
    least = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    above, level = scores > least, scores == least
    missing = count - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (np.cumsum(level, axis=1) <= missing))
    part = np.nonzero(chosen)[1].reshape(len(scores), count)
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    places: NDArray[np.int64] = np.take_along_axis(part, order, axis=1)
    return places


def candidates_of(
    sources: Sequence[Source],
    weights: NDArray[np.float64],
    cases: Cases,
    count: int,
    *,
    repeats: bool,
    tick: Callable[[int], object] = lambda _: None,
) -> Candidates:
    """The first `count` candidates of the mixture for each case, with their signals. tick: told of cases
    done.
    """
    places, signals = [], []
    for part in chunks(len(cases)):
        histories = cases.histories[part]
        shares = shares_of(sources, histories, repeats)
        mixture = mixed(shares, weights)
        if not repeats:
            strip(mixture, histories, -np.inf)
        chosen = first(mixture, count)
        places.append(chosen)
        signals.append(signals_of(shares, mixture, chosen, histories))
        tick(len(histories))
    return Candidates(np.concatenate(places), np.concatenate(signals), signal_names(sources))


def train_order(
    recipe: OrderRecipe, candidates: Candidates, targets: Items, chosen: NDArray[np.int64], *, seed: int
) -> str:
    """A LightGBM text model from the cases `chosen` whose target is among their candidates.

    Raises: ValueError where there is none.
    """
    found = candidates.places[chosen] == targets[chosen][:, None]
    kept = chosen[found.any(axis=1)]
    if not len(kept):
        raise ValueError(
            "no case has its target among the candidates: nothing can be learnt from their order"
        )
    count, signals = candidates.signals.shape[1:]
    rows = Rows(
        candidates.signals[kept].reshape(-1, signals).astype(np.float64),
        found[found.any(axis=1)].astype(np.float64).ravel(),
        [count] * len(kept),
    )
    return train_forest(_settings(recipe, candidates.names), rows, candidates.names, seed=seed)


def ordered(
    model: str, places: NDArray[np.int64], signals: NDArray[np.float32], taken: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Candidates in the model's order, best first, ties as they came: int64 [cases, n].

    taken: [items]. A candidate that nobody took keeps its place: the model has learnt from targets that were
    all taken.
    """
    cases, count, width = signals.shape
    scores = score(model, signals.reshape(-1, width).astype(np.float64)).reshape(cases, count)
    new = taken[places] == 0
    scores[new] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    found: NDArray[np.int64] = np.take_along_axis(places, order, axis=1)
    for row in np.flatnonzero(new.any(axis=1)):
        known = found[row][: count - int(new[row].sum())].copy()
        found[row][new[row]] = places[row][new[row]]
        found[row][~new[row]] = known
    return found


def ranks_among(places: NDArray[np.int64], targets: Items, beyond: int) -> NDArray[np.int64]:
    """Rank of each target among its candidates, from 0; `beyond` where it is not among them: int64
    [cases].
    """
    same = places == targets[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1), beyond)


def out_of_fold(
    recipe: OrderRecipe, candidates: Candidates, cases: Cases, taken: NDArray[np.float32], *, seed: int
) -> NDArray[np.int64]:
    """Rank of each target in the order of a model that did not see its shopper: int64 [cases]."""
    folds = np.array([fold_of("order", user, recipe.folds, seed) for user in cases.users])
    found = np.full(len(cases), candidates.places.shape[1], dtype=np.int64)
    for fold in range(recipe.folds):
        inside = np.flatnonzero(folds == fold)
        if not len(inside):
            continue
        model = train_order(recipe, candidates, cases.targets, np.flatnonzero(folds != fold), seed=seed)
        places = ordered(model, candidates.places[inside], candidates.signals[inside], taken)
        found[inside] = ranks_among(places, cases.targets[inside], candidates.places.shape[1])
    return found


def _settings(recipe: OrderRecipe, names: Sequence[str]) -> RankRecipe:
    return RankRecipe(
        trees=recipe.trees,
        leaves=recipe.leaves,
        learning_rate=recipe.learning_rate,
        l2=recipe.l2,
        feature_fraction=recipe.feature_fraction,
        rows_min=recipe.rows_min,
        seeds=recipe.seeds,
        width=0,
        # More that speaks for an item never counts against it. That also keeps out what only the making of a
        # set explains: where items with fewer than five shoppers were left out of it, one that has three in
        # what is learnt from is sure to be somebody's target.
        monotone={name: 1 for name in names if name != "history"},
        kind="lambdamart",
        features=[],
        linear_l2=0.0,
        rows=0,
    )
