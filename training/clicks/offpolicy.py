"""How many clicks an answer another order would get, from clicks on the present one.

The log must say with which probability each product was put where it was; a service gets them by
swapping neighbours in a share of its answers. Estimates weigh by product and position (Li et al. 2018,
"Offline Evaluation of Ranking Policies with Click Models", arXiv:1804.10488): what a product gets does not
depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muster.products import ProductFileError
from muster.products.runs import read_run
from training.clicks import judgements, propensity
from training.clicks.impressions import ClicksRefused, Floats, Impressions, Inconclusive, Ints

SAMPLE_LEAST = 100.0
SUPPORT_LEAST = 0.95


@dataclass(frozen=True)
class Value:
    """Clicks an answer, with bounds of 95 % by the bootstrap over answers."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OffPolicy:
    """estimates: by name, "ips", "snips", "dr"; logged: of the answers as they were. sample: effective number
    of answers at the position with the fewest. supported: share of the target's places that the log shows.
    clipped: share of weights that were cut.
    """

    estimates: Mapping[str, Value]
    logged: Value
    sample: float
    supported: float
    clipped: float


def places_in(path: Path, shown: Impressions, places: int) -> Ints:
    """Position from 1 in a TREC run file of each impression's product, 0 outside the first `places`.

    Raises: ClicksRefused where the file is no run, or a query of the clicks has no order.
    """
    try:
        orders = read_run(path)
    except ProductFileError as error:
        raise ClicksRefused(str(error)) from error
    at: dict[tuple[int, int], int] = {}
    index = {name: number for number, name in enumerate(shown.product_names)}
    for number, name in enumerate(shown.query_names):
        if name not in orders:
            raise ClicksRefused(f"{path} has no order for the query {name}")
        for place, product in enumerate(orders[name][:places], start=1):
            if product in index:
                at[number, index[product]] = place
    keys = zip(shown.query.tolist(), shown.product.tolist(), strict=True)
    return np.array([at.get(key, 0) for key in keys], dtype=np.int64)


def estimate(
    shown: Impressions, target: Ints, *, clip: float = 20.0, rounds: int = 500, seed: int = 0
) -> OffPolicy:
    """Clicks an answer of the target order.

    target: position from 1 of each impression's product in that order for its query, 0 where it is not in the
    first places; int64 [impressions]. clip: greatest weight.
    Raises: Inconclusive where the log cannot say it; ClicksRefused.
    """
    if clip < 1:
        raise ClicksRefused("the clip of weights must be 1 or more")
    if shown.propensity is None:
        raise Inconclusive(
            "the clicks have no column propensity: log the chance of each product at its place"
        )
    if (shown.propensity == 1).all():
        raise Inconclusive("the log holds no randomness: swap neighbours in a share of answers")
    places, answers = shown.places, shown.answers
    hit = target == shown.position
    raw = np.where(hit, 1 / shown.propensity, 0.0)
    weight = np.minimum(raw, clip)
    supported = _supported(shown, hit, places)
    if supported < SUPPORT_LEAST:
        raise Inconclusive(
            f"the log shows only {supported:.1%} of the places of that order: it is too far away"
        )
    by_place = _grid(shown, weight)
    squares = (by_place**2).sum(axis=0)
    sample = float((by_place.sum(axis=0) ** 2 / np.maximum(squares, 1e-12)).min())
    if sample < SAMPLE_LEAST:
        raise Inconclusive(
            f"a position has an effective sample of {sample:.0f} answers, {SAMPLE_LEAST:.0f} needed"
        )
    clicks = _grid(shown, weight * shown.clicked)
    rng = np.random.default_rng(seed)
    terms = _doubly_robust(shown, target, weight, rng)
    seen = np.bincount(shown.answer, shown.clicked, answers).astype(float)
    columns = np.column_stack([clicks, by_place, terms, seen])
    # One resample at a time: all at once would hold rounds times answers numbers.
    even = np.full(answers, 1 / answers)
    sums = np.array([rng.multinomial(answers, even) @ columns for _ in range(rounds)])
    values, drawn = _values(columns.sum(axis=0)[None], answers), _values(sums, answers)
    found = {name: _bounds(float(value[0]), drawn[name]) for name, value in values.items()}
    logged = found.pop("logged")
    return OffPolicy(found, logged, sample, supported, float((raw > clip).sum() / max(hit.sum(), 1)))


def _grid(shown: Impressions, values: Floats) -> Floats:
    """Values summed by answer and position; float64 [answers, places]."""
    cell = shown.answer * shown.places + shown.position - 1
    found = np.bincount(cell, values, shown.answers * shown.places)
    return np.asarray(found.reshape(shown.answers, shown.places))


def _supported(shown: Impressions, hit: np.ndarray[tuple[int], np.dtype[np.bool_]], places: int) -> float:
    """Share of (answer, place) for which the log shows the target's product at that place for that query."""
    queries = int(shown.query.max()) + 1
    seen = np.zeros((queries, places), dtype=bool)
    seen[shown.query[hit], shown.position[hit] - 1] = True
    _, first = np.unique(shown.answer, return_index=True)
    return float(seen[shown.query[first]].mean())


def _doubly_robust(shown: Impressions, target: Ints, weight: Floats, rng: np.random.Generator) -> Floats:
    """Each answer's term, float64 [answers]: what a click model of the other half expects, put right."""
    half = rng.permutation(shown.answers) % 2 == 0
    pair, pairs = shown.pairs()
    pair_query = np.zeros(pairs, dtype=np.int64)
    pair_target = np.zeros(pairs, dtype=np.int64)
    pair_query[pair], pair_target[pair] = shown.query, target
    terms = np.zeros(shown.answers)
    for chosen in (half, ~half):
        other = shown.of_answers(~chosen)
        attracts = np.zeros(pairs)
        examined = propensity.by_interventions(propensity.count(other))
        if len(examined) < shown.places:
            raise Inconclusive("a half of the answers does not fill all places; gather more")
        known = np.unique(pair[~chosen[shown.answer]])
        attracts[known] = judgements.gains(other, examined)
        placed = np.where(pair_target > 0, attracts * examined[pair_target - 1], 0.0)
        expected = np.bincount(pair_query, placed)
        rows = chosen[shown.answer]
        wrong = weight * (shown.clicked - attracts[pair] * examined[shown.position - 1])
        query_of = np.zeros(shown.answers, dtype=np.int64)
        query_of[shown.answer] = shown.query
        terms += np.where(chosen, expected[query_of], 0.0)
        terms += np.bincount(shown.answer[rows], wrong[rows], shown.answers)
    return terms


def _values(sums: Floats, answers: int) -> dict[str, Floats]:
    """The estimates from sums over answers, float64 [rounds, 2 * places + 2]; returns [rounds] each."""
    places = (sums.shape[1] - 2) // 2
    clicks, weights = sums[:, :places], sums[:, places : 2 * places]
    return {
        "ips": clicks.sum(axis=1) / answers,
        "snips": (clicks / np.maximum(weights, 1e-12)).sum(axis=1),
        "dr": sums[:, -2] / answers,
        "logged": sums[:, -1] / answers,
    }


def _bounds(value: float, drawn: Floats) -> Value:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Value(value, float(low), float(high))
