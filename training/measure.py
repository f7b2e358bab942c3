"""Measures over queries: nDCG@10 by ir_measures, intervals by the bootstrap, comparisons query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray

CUTOFF = 10
_SCALES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, and its bootstrap interval."""

    mean: float
    low: float
    high: float

    def rounded(self) -> dict[str, float]:
        """As written in reports: nDCG@10 and its interval, four digits."""
        return {"ndcg10": round(self.mean, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def whole_gains(gains: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, int]]:
    """Gains as whole numbers in the same proportions, as TREC files need them; nDCG does not change.

    Raises: ValueError where no power of ten up to a million makes all of them whole.
    """
    values = {gain for judged in gains.values() for gain in judged.values()}
    for scale in _SCALES:
        if all(abs(value * scale - round(value * scale)) < 1e-9 * scale for value in values):
            return {
                query: {product: round(gain * scale) for product, gain in judged.items()}
                for query, judged in gains.items()
            }
    raise ValueError("gains need more than six decimals")


def ndcg_by_query(
    gains: Mapping[str, Mapping[str, float]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """nDCG@10 with linear gain, unjudged = 0, of every query that has a positive gain.

    rankings: query to product ids, best first; a query without a ranking scores 0.
    """
    whole = whole_gains(gains)
    scorable = {query: judged for query, judged in whole.items() if any(gain > 0 for gain in judged.values())}
    # Scores fall with the rank: evaluators sort by score, and ties would be theirs to break.
    run = {
        query: {product: float(-rank) for rank, product in enumerate(rankings.get(query, ()))}
        for query in scorable
    }
    run = {query: scores for query, scores in run.items() if scores}
    found = dict.fromkeys(scorable, 0.0)
    if run:
        measure = ir_measures.nDCG @ CUTOFF
        for value in ir_measures.iter_calc([measure], scorable, run):
            found[value.query_id] = float(value.value)
    return found


def estimate(
    values: Mapping[str, float] | Sequence[float], *, seed: int, rounds: int = 2000, interval: float = 0.95
) -> Estimate:
    """Mean over queries with a percentile bootstrap interval. Raises: ValueError where there is no query."""
    numbers = np.asarray(
        list(values.values()) if isinstance(values, Mapping) else list(values), dtype=np.float64
    )
    if numbers.size == 0:
        raise ValueError("no query has a relevant product")
    means = _resampled([numbers], seed, rounds)
    low, high = np.quantile(means, [(1 - interval) / 2, (1 + interval) / 2])
    return Estimate(float(numbers.mean()), float(min(low, numbers.mean())), float(max(high, numbers.mean())))


def difference(
    better: Mapping[str, Mapping[str, float]],
    worse: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
    rounds: int = 2000,
    interval: float = 0.95,
) -> Estimate:
    """Mean of better - worse, query by query, each set counting the same, with its bootstrap interval.

    better, worse: set to query to nDCG, over the same queries. Queries are drawn within their set.
    """
    gaps = []
    for name in sorted(better):
        if set(better[name]) != set(worse[name]):
            raise ValueError(f"the two rankers were measured on other queries of {name}")
        gaps.append(np.array([better[name][query] - worse[name][query] for query in sorted(better[name])]))
    means = _resampled(gaps, seed, rounds)
    low, high = np.quantile(means, [(1 - interval) / 2, (1 + interval) / 2])
    return Estimate(float(np.mean([gap.mean() for gap in gaps])), float(low), float(high))


def random_ndcg(gains: Mapping[str, Mapping[str, float]], *, seed: int, rounds: int = 20) -> dict[str, float]:
    """nDCG@10 of the judged products in random order, mean over draws."""
    random = np.random.default_rng(seed)
    total: dict[str, float] = {}
    for _ in range(rounds):
        rankings = {}
        for query, judged in gains.items():
            products = sorted(judged)
            rankings[query] = [products[at] for at in random.permutation(len(products))]
        for query, value in ndcg_by_query(gains, rankings).items():
            total[query] = total.get(query, 0.0) + value / rounds
    return total


def best_first(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by falling score; unknown scores last, ties as they came."""
    return np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable").astype(np.int64)


def fast_ndcg(
    gains: NDArray[np.float64], order: Sequence[int] | NDArray[Any], ideal: NDArray[np.float64]
) -> float:
    """nDCG@10 with linear gain of one query.

    gains: [candidates]; order: indices of candidates, best first; ideal: all gains known of the query.
    The same figure as `ndcg_by_query`, without files in between, for loops over many settings.
    """
    discount = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    best = np.sort(ideal)[::-1][:CUTOFF]
    got = gains[np.asarray(order)[:CUTOFF]]
    return float((got * discount[: len(got)]).sum() / (best * discount[: len(best)]).sum())


def _resampled(samples: Sequence[NDArray[np.float64]], seed: int, rounds: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    means = [one[random.integers(len(one), size=(rounds, len(one)))].mean(axis=1) for one in samples]
    return np.asarray(np.mean(means, axis=0))
