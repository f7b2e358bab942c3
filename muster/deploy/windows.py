"""What a replica measured of a candidate and of the serving bundle between two moments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from muster.v1 import admin_pb2 as pb

_BUCKET_MS = 0.05
_BUCKET_GROWTH = 1.25


@dataclass(frozen=True)
class Times:
    """A histogram of times: bucket i counts up to 0.05 * 1.25^i milliseconds, as the contract says."""

    buckets: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.buckets)

    def quantile_ms(self, share: float) -> float:
        """The bound that at least this share (0 to 1) of the times do not exceed, milliseconds.

        It is above the true value by at most a quarter of it. Raises: ValueError without times.
        """
        if not self.count:
            raise ValueError("a quantile of no times")
        wanted, seen = share * self.count, 0
        for number, bucket in enumerate(self.buckets):
            seen += bucket
            if bucket and seen >= wanted:
                return _BUCKET_MS * _BUCKET_GROWTH**number
        raise AssertionError("the buckets add up to their count")

    def quantile_between_ms(self, share: float, deviates: float) -> tuple[float, float]:
        """Bounds that the quantile of all such times lies between, judged by these: order statistics, by the
        normal approximation of the binomial; infinite where there are too few. deviates: 2.58 for 99 %.

        Distribution-free, see Conover, Practical Nonparametric Statistics, 3rd ed., 3.2.
        """
        count = self.count
        spread = deviates * math.sqrt(count * share * (1 - share))
        low, high = math.floor(count * share - spread), math.ceil(count * share + spread) + 1
        return (
            self.quantile_ms(low / count) if low >= 1 else -math.inf,
            self.quantile_ms(high / count) if 1 <= high <= count else math.inf,
        )

    def since(self, earlier: Times) -> Times:
        """Those that came after ``earlier``."""
        before = [*earlier.buckets, *[0] * (len(self.buckets) - len(earlier.buckets))]
        return Times(tuple(now - then for now, then in zip(self.buckets, before, strict=True)))


@dataclass(frozen=True)
class Arm:
    """Requests that one bundle answered in one role; fields as in TrialArm. work: by tier."""

    answered: int = 0
    failed: int = 0
    refused: int = 0
    given_up: int = 0
    worth_total: float = 0.0
    latency: Times = field(default_factory=Times)
    work: Mapping[str, Times] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Requests that came to an end."""
        return self.answered + self.failed + self.refused

    @property
    def error_share(self) -> float:
        """Share of them that were not answered; 0 without any."""
        return (self.failed + self.refused) / self.ended if self.ended else 0.0

    def since(self, earlier: Arm) -> Arm:
        """Those that came after ``earlier``."""
        return Arm(
            answered=self.answered - earlier.answered,
            failed=self.failed - earlier.failed,
            refused=self.refused - earlier.refused,
            given_up=self.given_up - earlier.given_up,
            worth_total=self.worth_total - earlier.worth_total,
            latency=self.latency.since(earlier.latency),
            work={tier: times.since(earlier.work.get(tier, Times())) for tier, times in self.work.items()},
        )


@dataclass(frozen=True)
class Window:
    """One stretch of a trial. serving: the bundle in service; canary: the candidate for callers; shadow: the
    candidate for comparison. memory_growth_bytes: of the replica's process since before the candidate.
    """

    serving: Arm = field(default_factory=Arm)
    canary: Arm = field(default_factory=Arm)
    shadow: Arm = field(default_factory=Arm)
    compared: int = 0
    dropped: int = 0
    agreement_total: float = 0.0
    overlap_total: float = 0.0
    memory_growth_bytes: int = 0

    @property
    def agreement(self) -> float | None:
        """Mean nDCG of the candidate's order by the serving order's gains; None: nothing was compared."""
        return self.agreement_total / self.compared if self.compared else None

    @property
    def overlap(self) -> float | None:
        """Mean share of the serving order's first ten that the candidate has too; None as for agreement."""
        return self.overlap_total / self.compared if self.compared else None

    def since(self, earlier: Window) -> Window:
        """What was measured after ``earlier``; all of it, where the counts began anew in between."""
        if self.serving.ended < earlier.serving.ended or self.compared < earlier.compared:
            return self
        return Window(
            serving=self.serving.since(earlier.serving),
            canary=self.canary.since(earlier.canary),
            shadow=self.shadow.since(earlier.shadow),
            compared=self.compared - earlier.compared,
            dropped=self.dropped - earlier.dropped,
            agreement_total=self.agreement_total - earlier.agreement_total,
            overlap_total=self.overlap_total - earlier.overlap_total,
            memory_growth_bytes=self.memory_growth_bytes,
        )


def window_of(trial: pb.Trial, memory_growth_bytes: int = 0) -> Window:
    """All that a trial has measured since its candidate was ready."""
    return Window(
        serving=_arm(trial.serving),
        canary=_arm(trial.canary),
        shadow=_arm(trial.shadow),
        compared=trial.compared,
        dropped=trial.dropped,
        agreement_total=trial.agreement_total,
        overlap_total=trial.overlap_total,
        memory_growth_bytes=memory_growth_bytes,
    )


def _arm(arm: pb.TrialArm) -> Arm:
    return Arm(
        answered=arm.answered,
        failed=arm.failed,
        refused=arm.refused,
        given_up=arm.given_up,
        worth_total=arm.worth_total,
        latency=_times(arm.latency_buckets),
        work={tier.tier: _times(tier.buckets) for tier in arm.tiers},
    )


def _times(buckets: Sequence[int]) -> Times:
    return Times(tuple(buckets))
