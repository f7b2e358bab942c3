"""How much noise each part adds, so that all of them together spend no more than was asked.

Each part that looks at shoppers is a Gaussian mechanism, sampled or not, for which opacus accounts. Its noise
is first what its share of epsilon would need by itself; since parts compose better than their epsilons add
up, all noise is then lowered by one factor until the accountant says what was asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from training.recipe import RecipeError

ACCOUNTANT = "rdp"
ORDERS = [
    *(1.0 + at / 4.0 for at in range(1, 40)),
    *range(11, 64),
    *(80, 96, 128, 192, 256, 384, 512, 1024),
]
"""Of Renyi divergences that are looked at. Any choice bounds epsilon; large ones serve small epsilons."""
_ROUNDS = 24


@dataclass(frozen=True)
class Part:
    """One use of behaviour. share: of epsilon, 0 to 1. sample_rate: chance with which a shopper is in one of
    its steps. steps: how often it looks.
    """

    name: str
    share: float
    sample_rate: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Spent:
    """What a part spends. noise: standard deviation at each step, in units of what one shopper may change
    (L2). epsilon: of this part alone.
    """

    part: Part
    noise: float
    epsilon: float


@dataclass(frozen=True)
class Budget:
    """What all parts spend together, as opacus accounts for it."""

    epsilon: float
    delta: float
    spent: list[Spent]

    def noise(self, name: str) -> float:
        """Of one part. Raises: KeyError where the part has no share."""
        return {one.part.name: one.noise for one in self.spent}[name]


def require_opacus() -> None:
    """Raises: RecipeError where opacus is not installed, saying what to install."""
    try:
        import opacus  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "[privacy] needs opacus, which is not installed: pip install 'muster[private]', or leave the "
            "section out"
        ) from error


def allot(parts: Sequence[Part], epsilon: float, delta: float) -> Budget:
    """Noise for each part, so that all spend at most (epsilon, delta).

    Shares are taken relative to their sum. Raises: RecipeError where no noise is large enough.
    """
    require_opacus()
    from opacus.accountants.utils import get_noise_multiplier

    whole = sum(one.share for one in parts)
    alone: list[float] = []
    with _quiet():
        for part in parts:
            wanted = part.share / whole * epsilon
            try:
                found = get_noise_multiplier(
                    target_epsilon=wanted,
                    target_delta=delta,
                    sample_rate=part.sample_rate,
                    steps=part.steps,
                    accountant=ACCOUNTANT,
                    epsilon_tolerance=wanted / 50.0,
                    alphas=ORDERS,
                )
            except ValueError as error:
                raise RecipeError(
                    f"privacy.shares.{part.name} leaves {wanted:.3g} of epsilon, for which no noise "
                    "is enough: raise the share, privacy.epsilon or privacy.delta"
                ) from error
            alone.append(float(found))
    low, high = 0.05, 1.0
    for _ in range(_ROUNDS):
        middle = (low * high) ** 0.5
        if _spent_by(parts, [middle * one for one in alone], delta) <= epsilon:
            high = middle
        else:
            low = middle
        if high / low < 1.002:
            break
    noise = [high * one for one in alone]
    return Budget(
        _spent_by(parts, noise, delta),
        delta,
        [Spent(part, one, _spent_by([part], [one], delta)) for part, one in zip(parts, noise, strict=True)],
    )


def _spent_by(parts: Sequence[Part], noise: Sequence[float], delta: float) -> float:
    """Epsilon of all parts together."""
    from opacus.accountants import create_accountant

    accountant: Any = create_accountant(mechanism=ACCOUNTANT)
    accountant.history = [(one, part.sample_rate, part.steps) for part, one in zip(parts, noise, strict=True)]
    with _quiet():
        return float(accountant.get_epsilon(delta=delta, alphas=ORDERS))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice on orders: more of them would lower epsilon by next to nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
