"""The weights of the mixture: which sources are in it, chosen by what it is worth to shoppers, with noise.

Without privacy the weights are the likeliest ones and the final order does the rest. Here nothing comes
after the mixture, and the likeliest weights serve the first ten badly: most of them go to popularity, which
is right of what nothing foretells. So sources get equal weights, and which of them count is what the
validation's nDCG@10 says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from training.recommend.behaviour import Cases
from training.recommend.measured import ndcg, target_ranks
from training.recommend.mixture import Source, chunks, mixed, shares_of, strip
from training.recommend.private.bounded import SENSITIVITY
from training.recommend.private.noise import Noise, on_grid


def mixtures(sources: int) -> NDArray[np.float64]:
    """Every choice of some of the sources, in equal parts: float64 [choices, sources]."""
    every = np.array(list(product((0.0, 1.0), repeat=sources))[1:])
    return np.asarray(every / every.sum(axis=1, keepdims=True))


def private_weights(
    sources: Sequence[Source],
    cases: Cases,
    noise: Noise,
    deviation: float,
    *,
    repeats: bool,
    tick: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float64]:
    """Weights of the sources, at least 0 and 1 together.

    cases: one a shopper. deviation: of the noise on the sums of `shopper_gains`. tick: told of cases done.
    Raises: ValueError where a shopper has more than one case.
    """
    if len(set(cases.users)) < len(cases):
        raise ValueError("a shopper has more than one case: what he adds would not be bounded")
    choices = mixtures(len(sources))
    sums = np.zeros(len(choices))
    for part in chunks(len(cases)):
        histories, targets = cases.histories[part], cases.targets[part]
        shares = shares_of(sources, histories, repeats)
        gains = np.empty((len(histories), len(choices)))
        for at, choice in enumerate(choices):
            scores = mixed(shares, choice)
            if not repeats:
                strip(scores, histories, -np.inf)
            gains[:, at] = ndcg(target_ranks(scores, targets))
        sums += shopper_gains(gains).sum(axis=0)
        tick(len(histories))
    sums += noise.gaussian("weights", len(choices), deviation)
    return np.asarray(choices[int(sums.argmax())])


def shopper_gains(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each shopper adds to the sums: float64 [shoppers, choices], rows of length at most 1.

    gains: nDCG@10 by choice, 0 to 1 each. Less their mean, since only differences choose; longer rows are
    scaled down.
    """
    told = gains - gains.mean(axis=1, keepdims=True)
    return on_grid(told / np.maximum(np.linalg.norm(told, axis=1, keepdims=True), SENSITIVITY))
