"""Choice: which student, and how many products it re-ranks, for a deadline.

Everything is measured before: this file only weighs. A student's worth is the low end of the interval of its
gain over the cheap scores alone, query by query: of two that look alike the surer one is taken, and one that
may be worth nothing is not taken at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.bundle import BUNDLE_BYTES_MAX
from training.measure import Estimate, difference

# Two-sided, so that one in ten choices is worse than its low end says.
INTERVAL = 0.8
# Low ends that lie nearer than this are the same: a query more or less moves them further.
TIE = 0.001

Quality = Mapping[str, Mapping[str, float]]
"""Set to query to nDCG@10."""


@dataclass(frozen=True)
class Option:
    """A measured student that re-ranks the first `depth` products of the order below it.

    trial: its number. name: for people. ms: of a request, the query's encoding included. bundle_bytes: of a
    bundle with it, estimated. quality: out of fold.
    """

    trial: int
    name: str
    depth: int
    ms: float
    bundle_bytes: int
    quality: Quality

    def __str__(self) -> str:
        return f"{self.name}, depth {self.depth}"


@dataclass(frozen=True)
class Choice:
    """What was chosen, None for no cross-encoder; its gain over those alone; and why, as sentences."""

    option: Option | None
    gain: Estimate | None
    reasons: list[str]


def choose(
    options: Sequence[Option],
    cheap: Quality,
    *,
    deadline_ms: float,
    usable_share: float,
    query_ms: float,
    seed: int,
    rounds: int = 2000,
) -> Choice:
    """The option that is surely worth most among those that fit.

    cheap: quality of the cheap scores alone, over the same queries. deadline_ms: of a request; usable_share:
    of it that may be planned with. query_ms: of the query's encoding, part of every option's ms.
    seed, rounds: of the bootstrap.
    """
    usable_ms = deadline_ms * usable_share - query_ms
    reasons = [
        f"Of the deadline of {deadline_ms:g} ms, {usable_share:.0%} is planned with and the rest left for "
        f"the slowest requests; encoding the query takes {query_ms:.2f} ms, which leaves {usable_ms:.2f} ms "
        "for a cross-encoder."
    ]
    in_time = [one for one in options if one.ms - query_ms <= usable_ms]
    fitting = [one for one in in_time if one.bundle_bytes <= BUNDLE_BYTES_MAX]
    reasons.append(
        f"{len(in_time)} of {len(options)} students with a depth fit into that"
        + ("." if len(fitting) == len(in_time) else f", {len(fitting)} of them into a bundle of 24 MiB.")
    )
    if not fitting:
        least = min(options, key=lambda one: one.ms, default=None)
        told = f" The cheapest, {least}, takes {least.ms - query_ms:.2f} ms." if least is not None else ""
        return Choice(None, None, [*reasons, f"So no cross-encoder is used.{told}"])
    gains = {
        at: difference(one.quality, cheap, seed=seed, rounds=rounds, interval=INTERVAL)
        for at, one in enumerate(fitting)
    }
    best = max(gains, key=lambda at: gains[at].low)
    if gains[best].low <= 0.0:
        reasons.append(
            f"None of them is surely better than the cheap scores alone: the surest, {fitting[best]}, gains "
            f"{_interval(gains[best])}. So no cross-encoder is used."
        )
        return Choice(None, None, reasons)
    alike = [at for at in gains if gains[at].low > 0.0 and gains[at].low >= gains[best].low - TIE]
    taken = min(alike, key=lambda at: (fitting[at].ms, -gains[at].low, fitting[at].trial))
    one = fitting[taken]
    reasons.append(
        f"{one} gains {_interval(gains[taken])} nDCG@10 over the cheap scores alone, in {one.ms:.2f} ms: the "
        "greatest low end among them."
    )
    if taken != best:
        reasons[-1] = (
            f"{one} gains {_interval(gains[taken])} nDCG@10 over the cheap scores alone, in {one.ms:.2f} ms. "
            f"The greatest low end is that of {fitting[best]}, {_interval(gains[best])}, but it is within "
            f"{TIE:g} and takes {fitting[best].ms:.2f} ms."
        )
    return Choice(one, gains[taken], reasons)


def front(costs: Sequence[float], worths: Sequence[float]) -> list[int]:
    """Which of several are the Pareto front, cheapest first: each is worth more than all as cheap."""
    found: list[int] = []
    for at in sorted(range(len(costs)), key=lambda at: (costs[at], -worths[at])):
        if not found or worths[at] > worths[found[-1]]:
            found.append(at)
    return found


def _interval(gain: Estimate) -> str:
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] ({INTERVAL:.0%})"
