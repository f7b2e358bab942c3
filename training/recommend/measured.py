"""HR@10 and nDCG@10 over all items, with intervals: no negatives are sampled.

A ranker's items are ordered by its score, ties in the order of their places (which says nothing, see
`training.recommend.behaviour`), and what a shopper took already is left out unless the set repeats items.
Source: Krichene & Rendle 2020 (KDD), on what sampled negatives do to such figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def interval_of(
    values: NDArray[np.float64], *, seed: int, rounds: int, users: Sequence[str] | None = None
) -> Estimate:
    """Mean over cases with its 95 % percentile bootstrap interval. Raises: ValueError where there is no case.

    users: of the cases; where one has several, users are drawn and not cases, since theirs are alike. Else
    cases are drawn by the values that occur, of which there are few: the same distribution as drawing them
    one by one, at a cost that does not grow with them.
    """
    if len(values) == 0:
        raise ValueError("there is no case to measure")
    chooser = np.random.default_rng(seed)
    if users is not None and len(set(users)) < len(users):
        _, owner = np.unique(np.asarray(users), return_inverse=True)
        sums, counts = np.bincount(owner, weights=values), np.bincount(owner)
        chosen = chooser.multinomial(len(counts), np.full(len(counts), 1.0 / len(counts)), size=rounds)
        means = (chosen @ sums) / (chosen @ counts)
    else:
        distinct, counts = np.unique(values, return_counts=True)
        means = chooser.multinomial(len(values), counts / len(values), size=rounds) @ distinct / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    mean = float(values.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


@dataclass(frozen=True)
class Ranks:
    """Ranks of the same cases by several rankers, whose cases they are, and which of them are of a kind."""

    by_ranker: Mapping[str, NDArray[np.int64]]
    users: Sequence[str]
    kinds: Mapping[str, NDArray[np.bool_]]

    def rows(self, *, seed: int, rounds: int, kind: str = "") -> list[dict[str, Any]]:
        """A row a ranker: name, hr10 with hr10_low and hr10_high, ndcg10 with low and high. kind: "" for
        all cases.
        """
        found = []
        inside = np.arange(len(self.users)) if not kind else np.flatnonzero(self.kinds[kind])
        users = [self.users[at] for at in inside.tolist()]
        for name, ranks in self.by_ranker.items():
            hit = interval_of(hits(ranks[inside]), seed=seed, rounds=rounds, users=users)
            gain = interval_of(ndcg(ranks[inside]), seed=seed, rounds=rounds, users=users)
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


def gap(
    better: NDArray[np.int64],
    worse: NDArray[np.int64],
    *,
    seed: int,
    rounds: int,
    users: Sequence[str] | None = None,
) -> dict[str, float]:
    """nDCG@10 of one ranker less that of another, case by case, with its interval (`interval_of`)."""
    return interval_of(ndcg(better) - ndcg(worse), seed=seed, rounds=rounds, users=users).rounded()
