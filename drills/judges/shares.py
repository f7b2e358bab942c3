"""Whether a share that was counted in a run is below the one that is promised, or only looks so."""

from __future__ import annotations

import math

CHANCE = 0.05


def surely_fewer(good: int, of: int, promised: float, chance: float = CHANCE) -> bool:
    """Whether so few good ones of so many would come by chance at most so often, were the promise just kept.

    A one-sided exact binomial test. promised: between 0 and 1, both excluded.
    """
    bad, odds = of - good, 1.0 - promised
    fewer_bad = math.fsum(
        math.exp(
            math.lgamma(of + 1)
            - math.lgamma(number + 1)
            - math.lgamma(of - number + 1)
            + number * math.log(odds)
            + (of - number) * math.log(promised)
        )
        for number in range(bad)
    )
    return 1.0 - fewer_bad <= chance
