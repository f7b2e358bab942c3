"""What one run of a point came to, what that costs, and what makes a point invalid at any cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from drills.tune.profile import Limits, Weights
from drills.tune.space import CLIENT, LEASE, RANKING, REPLICAS


@dataclass(frozen=True)
class Outcome:
    """One run of one point.

    unavailable_s: without an acknowledged write, mean over the kills and hangs. read_missed_share: of the
    reads beside the faults that came later than they should, or not at all. flood_missed_share: of the flood,
    not answered within its deadline. quality_lost_share: of the expected nDCG, over what was answered in
    time. extra_load_share: second sendings, of the reads. violations: of what must hold at any cost.
    disturbed: why the machine spoilt the run; empty: it did not. took_s: the run, seconds.
    """

    unavailable_s: float
    read_missed_share: float
    flood_missed_share: float
    quality_lost_share: float
    extra_load_share: float
    replicas: int
    violations: tuple[str, ...] = ()
    disturbed: str = ""
    took_s: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @staticmethod
    def from_plain(values: Mapping[str, Any]) -> Outcome:
        """As `plain` has told it. Raises: TypeError, KeyError."""
        return Outcome(**{**values, "violations": tuple(values["violations"])})


def parts(outcome: Outcome, weights: Weights) -> dict[str, float]:
    """Points by the group of settings that they show."""
    return {
        LEASE: weights.unavailable_per_s * outcome.unavailable_s,
        RANKING: 100.0 * weights.missed_per_percent * outcome.flood_missed_share
        + 100.0 * weights.quality_per_percent * outcome.quality_lost_share,
        CLIENT: 100.0 * weights.missed_per_percent * outcome.read_missed_share,
        REPLICAS: weights.replica_each * outcome.replicas,
    }


def cost(outcome: Outcome, weights: Weights) -> float:
    """Points in all: the less the better."""
    return sum(parts(outcome, weights).values())


def mean_cost(outcomes: Sequence[Outcome], weights: Weights) -> float:
    """Of the runs of a point. Raises: ValueError (statistics.StatisticsError) on none."""
    return fmean(cost(outcome, weights) for outcome in outcomes)


def broken(outcomes: Sequence[Outcome], limits: Limits) -> list[str]:
    """What makes a point invalid, whatever it costs; empty: nothing. One run that breaks something is enough,
    but for the extra load, which counts over all of them.
    """
    found = list(dict.fromkeys(one for outcome in outcomes for one in outcome.violations))
    if outcomes:
        extra = fmean(outcome.extra_load_share for outcome in outcomes)
        if extra > limits.extra_load_share_max:
            found.append(
                f"{extra:.1%} of the reads were sent a second time, more than"
                f" {limits.extra_load_share_max:.0%}"
            )
    return found
