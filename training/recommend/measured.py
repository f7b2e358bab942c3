"""HR@10 and nDCG@10 over all items, with intervals: no negatives are sampled.

A ranker's items are ordered by its score, ties in the order of their places (which says nothing, see
`training.recommend.behaviour`), and what a shopper took already is left out unless the set repeats items.
Source: Krichene & Rendle 2020 (KDD), on what sampled negatives do to such figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.measure import CUTOFF, Estimate


def target_ranks(scores: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each target, from 0. scores: [cases, items], -inf for what must not be named; targets:
    [cases].
    """
    own = scores[np.arange(len(targets)), targets][:, None]
    ahead = (scores > own).sum(axis=1)
    level = (scores == own) & (np.arange(scores.shape[1]) < targets[:, None])
    ranks: NDArray[np.int64] = np.where(np.isneginf(own[:, 0]), scores.shape[1], ahead + level.sum(axis=1))
    return ranks


def hits(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 where the target is among the first ten."""
    return (ranks < CUTOFF).astype(np.float64)


def ndcg(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """nDCG@10 of one relevant item: 1 / log2(rank + 2) among the first ten, else 0."""
    return np.where(ranks < CUTOFF, 1.0 / np.log2(ranks + 2.0), 0.0)


def interval_of(values: NDArray[np.float64], *, seed: int, rounds: int) -> Estimate:
    """Mean over cases with its 95 % percentile bootstrap interval.

    The cases of a resample are drawn by the values that occur, of which there are few: the same distribution
    as drawing them one by one, at a cost that does not grow with the cases. Raises: ValueError where there is
    no case.
    """
    if len(values) == 0:
        raise ValueError("there is no case to measure")
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=rounds)
    means = drawn @ distinct / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    mean = float(values.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


@dataclass(frozen=True)
class Ranks:
    """Ranks of the same cases by several rankers, and which cases are of a kind."""

    by_ranker: Mapping[str, NDArray[np.int64]]
    kinds: Mapping[str, NDArray[np.bool_]]

    def rows(self, *, seed: int, rounds: int, kind: str = "") -> list[dict[str, Any]]:
        """A row a ranker: name, hr10 with hr10_low and hr10_high, ndcg10 with low and high. kind: "" for
        all cases.
        """
        found = []
        for name, ranks in self.by_ranker.items():
            chosen = ranks if not kind else ranks[self.kinds[kind]]
            hit = interval_of(hits(chosen), seed=seed, rounds=rounds)
            gain = interval_of(ndcg(chosen), seed=seed, rounds=rounds)
            found.append(
                {
                    "name": name,
                    "hr10": round(hit.mean, 4),
                    "hr10_low": round(hit.low, 4),
                    "hr10_high": round(hit.high, 4),
                    "ndcg10": round(gain.mean, 4),
                    "low": round(gain.low, 4),
                    "high": round(gain.high, 4),
                }
            )
        return found


def gap(better: NDArray[np.int64], worse: NDArray[np.int64], *, seed: int, rounds: int) -> dict[str, float]:
    """nDCG@10 of one ranker less that of another, case by case, with its interval."""
    return interval_of(ndcg(better) - ndcg(worse), seed=seed, rounds=rounds).rounded()
