"""What came of an experiment: sample ratio, rates that may be looked at any time, interleaving, and power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from muster.experiments.assignment import ExperimentRefused

SAMPLE_RATIO_ALPHA = 0.001
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Rate:
    """successes: of `trials` shoppers, how many did what is counted."""

    trials: int
    successes: int

    def __post_init__(self) -> None:
        if self.trials < 1 or not 0 <= self.successes <= self.trials:
            raise ExperimentRefused(
                "a variant needs one shopper or more, and no more successes than shoppers"
            )

    @property
    def value(self) -> float:
        return self.successes / self.trials


@dataclass(frozen=True)
class Difference:
    """Rate of a variant less that of the control, with bounds that hold at all times together."""

    value: float
    low: float
    high: float


def sample_ratio_p(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Probability of counts at least that far from the planned shares, by Pearson's chi-square test.

    Below SAMPLE_RATIO_ALPHA the assignment or the log is broken, and nothing else should be read.
    Source: Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments".
    """
    total = sum(counts.values())
    if total == 0 or set(counts) != set(shares):
        raise ExperimentRefused("the counts must be of the planned variants, and not all 0")
    square = sum((counts[name] - total * share) ** 2 / (total * share) for name, share in shares.items())
    return _chi_square_above(square, len(shares) - 1)


def _chi_square_above(value: float, freedom: int) -> float:
    """Upper tail of the chi-square distribution, by the recurrence of the incomplete gamma function."""
    half = value / 2
    if freedom % 2:
        found, term, at = math.erfc(math.sqrt(half)), math.sqrt(half / math.pi) * 2 * math.exp(-half), 1.5
    else:
        found, term, at = math.exp(-half), half * math.exp(-half), 2.0
    for _ in range((freedom - 1) // 2):
        found += term
        term *= half / at
        at += 1
    return min(found, 1.0)


def always_valid(control: Rate, variant: Rate, *, alpha: float = 0.05, tuned_for: int = 5_000) -> Difference:
    """Difference of two rates with bounds of 1 - alpha that hold however often one looks.

    An asymptotic confidence sequence by the normal mixture, for independent terms whose variance is
    estimated. tuned_for: shoppers of both together at which the bounds are tightest; chosen beforehand.
    Source: Waudby-Smith et al. 2024, "Time-uniform central limit theory and asymptotic confidence sequences",
    arXiv:2103.06476, section 2. Raises: ExperimentRefused.
    """
    if not 0 < alpha < 1 or tuned_for < 1:
        raise ExperimentRefused("alpha lies between 0 and 1, and tuned_for is 1 or more")
    total = control.trials + variant.trials
    # Halves of a success and of a failure keep a rate of 0 or 1 from looking certain.
    spread = sum(
        (p := (rate.successes + 0.5) / (rate.trials + 1)) * (1 - p) / rate.trials
        for rate in (control, variant)
    )
    tuning = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned_for
    mixture = total * tuning + 1
    half = math.sqrt(2 * mixture / (total * tuning) * math.log(math.sqrt(mixture) / alpha) * spread)
    value = variant.value - control.value
    return Difference(value, value - half, value + half)


def sign_test_p(wins: int, losses: int) -> float:
    """Two-sided exact sign test of an interleaving; ties are left out. Raises: ExperimentRefused."""
    if wins < 0 or losses < 0:
        raise ExperimentRefused("wins and losses are 0 or more")
    total, fewer = wins + losses, min(wins, losses)
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def shoppers_needed(
    rate: float,
    change: float,
    *,
    shares: Sequence[float] = (0.5, 0.5),
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Shoppers of both variants together, for one look at the end by a two-sided test of two rates.

    rate: of the control. change: smallest difference worth finding, absolute, of either sign. Looking at
    any time by `always_valid` needs more. Raises: ExperimentRefused.
    """
    other = rate + change
    if not (0 < rate < 1 and 0 < other < 1 and change and 0 < alpha < 1 and 0 < power < 1):
        raise ExperimentRefused("rates, alpha and power lie between 0 and 1, and the change is not 0")
    if len(shares) != 2 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ExperimentRefused("two shares above 0 that add up to 1 are needed")
    reach = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)
    spread = rate * (1 - rate) / shares[0] + other * (1 - other) / shares[1]
    return math.ceil(reach**2 * spread / change**2)
