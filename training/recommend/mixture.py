"""A mixture of what several sources say comes next, with the shares that foretell the validation best.

Each source gives every item a share, at most 1 together, once what was taken already is left out: its
evidence for the item by all its evidence and its doubt. The mixture is the weighted sum of the shares. Its
weights are the ones under which the validation's targets are likeliest: convex, a handful of numbers, found
by expectation and maximisation (Dempster, Laird & Rubin 1977).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.recommend.behaviour import Cases, Items
from training.recommend.measured import target_ranks
from training.recommend.tables import Table, table_evidence

CHUNK = 256
_TINY = 1e-12
_LEAST = np.float32(1e-20)


class Source(Protocol):
    """Something that says what comes next.

    doubt: evidence for nothing known, at least 0: the more there is beside it, the surer the source.
    """

    @property
    def name(self) -> str: ...

    @property
    def doubt(self) -> float: ...

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """For every item: float32 [histories, items], at least 0."""


@dataclass(frozen=True)
class FromTable:
    """A table as a source. history_max: items of a history that are read."""

    table: Table
    history_max: int

    @property
    def name(self) -> str:
        """That of the table."""
        return self.table.name

    @property
    def doubt(self) -> float:
        """That of the table."""
        return self.table.doubt

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `Source`."""
        return table_evidence(self.table, histories, self.history_max)


@dataclass(frozen=True)
class FromPopularity:
    """The same for everybody. counts: float32 [items], how often each was taken."""

    counts: NDArray[np.float32]
    name: str = "popularity"
    doubt: float = 0.0

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `Source`."""
        return np.tile(self.counts.astype(np.float32), (len(histories), 1))


def strip(scores: NDArray[np.float32], histories: Sequence[Items], value: float) -> None:
    """Give `value` to whatever a history holds already, in place."""
    if histories:
        rows = np.repeat(np.arange(len(histories)), [len(one) for one in histories])
        scores[rows, np.concatenate(histories)] = value


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices over so many cases."""
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def shares_of(sources: Sequence[Source], histories: Sequence[Items], repeats: bool) -> NDArray[np.float32]:
    """What each source says once what was taken is left out: float32 [sources, histories, items].

    repeats: whether what was taken may come again, so nothing is left out.
    """
    found = []
    for source in sources:
        shares = source.evidence(histories)
        if not repeats:
            strip(shares, histories, 0.0)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True) + np.float32(source.doubt), _LEAST)
        found.append(shares)
    return np.stack(found)


def target_shares(
    sources: Sequence[Source], cases: Cases, *, repeats: bool, tick: Callable[[int], object] = lambda _: None
) -> NDArray[np.float64]:
    """What each source says of the target of each case: float64 [cases, sources]. tick: told of cases
    done.
    """
    found = np.empty((len(cases), len(sources)))
    for part in chunks(len(cases)):
        histories = cases.histories[part]
        shares = shares_of(sources, histories, repeats)
        found[part] = shares[:, np.arange(len(histories)), cases.targets[part]].T
        tick(len(histories))
    return found


def fit_weights(found: NDArray[np.float64], *, rounds: int = 300) -> NDArray[np.float64]:
    """Weights of the sources, at least 0 and 1 together, under which the targets are likeliest.

    found: [cases, sources], from `target_shares`. Cases of which no source says anything are passed over.
    Raises: ValueError where none is left.
    """
    told = found[found.sum(axis=1) > 0]
    if not len(told):
        raise ValueError("no source says anything of any target: there is nothing to mix")
    weights = np.full(found.shape[1], 1.0 / found.shape[1])
    for _ in range(rounds):
        parts = told * weights + _TINY * weights
        after = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(after - weights).max())
        weights = after
        if moved < 1e-6:
            break
    return weights


def mixed(shares: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 [histories, items] of [sources, histories, items]."""
    return np.tensordot(weights.astype(np.float32), shares, axes=1)


def source_ranks(source: Source, cases: Cases, *, repeats: bool) -> NDArray[np.int64]:
    """Ranks of the targets among all items by one source alone: int64 [cases]."""
    found = np.empty(len(cases), dtype=np.int64)
    for part in chunks(len(cases)):
        scores = source.evidence(cases.histories[part])
        if not repeats:
            strip(scores, cases.histories[part], -np.inf)
        found[part] = target_ranks(scores, cases.targets[part])
    return found
