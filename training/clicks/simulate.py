"""Made-up clicks whose truth is known: attraction, position bias, and a service that swaps neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.clicks.impressions import Floats, Impressions, Ints


@dataclass(frozen=True)
class World:
    """What is true. features: float64 [queries, candidates, signals]; attraction: probability of a click once
    looked at, float64 [queries, candidates]; order: candidates of each query as the service ranks them, best
    first, int64 [queries, candidates]; examined: float64 [candidates], of shoppers who look by position;
    satisfies, continues: of shoppers who look from the top on (`training.clicks.cascade`), chance that a
    click ends the search, float64 [queries, candidates], and chance to look at the next product otherwise.
    """

    features: Floats
    attraction: Floats
    order: Ints
    examined: Floats
    satisfies: Floats
    continues: float


def make_world(
    *,
    queries: int = 60,
    candidates: int = 10,
    signals: int = 6,
    power: float = 1.0,
    skill: float = 0.3,
    continues: float = 0.9,
    seed: int = 0,
) -> World:
    """A world. power: position p is looked at with probability p ** -power. skill: how far the service's
    order follows the truth; the rest of it follows the first signal, which says nothing of attraction.
    continues: see `World`.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(queries, candidates, signals))
    taste = rng.normal(size=signals)
    taste[0] = 0.0
    worth = features @ (taste / np.linalg.norm(taste))
    attraction = 0.05 + 0.75 / (1 + np.exp(-2.0 * worth + 1.0))
    score = skill * worth + (1 - skill) * 2.0 * features[:, :, 0]
    order = np.argsort(-score, axis=1, kind="stable")
    examined = np.arange(1, candidates + 1, dtype=np.float64) ** -power
    satisfies = rng.uniform(0.3, 0.9, size=attraction.shape)
    return World(features, attraction, order, examined, satisfies, continues)


def swap_chances(places: int, share: float) -> Floats:
    """Probability that the product ranked row is shown at column; float64 [places, places].

    A share of answers swaps each of the pairs (1, 2), (3, 4), ... or (2, 3), (4, 5), ..., each kind half the
    time, each pair by a coin. Source: Radlinski & Joachims 2006, "Minimally Invasive Randomization".
    """
    chances = np.eye(places)
    for at in range(places - 1):
        for one, other in ((at, at + 1), (at + 1, at)):
            chances[one, one] -= share / 4
            chances[one, other] += share / 4
    return chances


def draw_clicks(
    world: World, *, answers: int, swap_share: float = 0.3, cascade: bool = False, seed: int = 0
) -> Impressions:
    """Clicks on answers to queries drawn evenly, with the logging propensities. cascade: shoppers look from
    the top on, else by position.
    """
    rng = np.random.default_rng(seed)
    queries, places = world.order.shape
    asked = rng.integers(0, queries, answers)
    ranks = np.tile(np.arange(places), (answers, 1))
    swapping, start = rng.random(answers) < swap_share, rng.integers(0, 2, answers)
    for at in range(places - 1):
        now = swapping & (start == at % 2) & (rng.random(answers) < 0.5)
        ranks[now, at], ranks[now, at + 1] = at + 1, at
    product = np.take_along_axis(world.order[asked], ranks, axis=1)
    attracts = world.attraction[asked[:, None], product]
    liked = rng.random((answers, places))
    if cascade:
        ends = rng.random((answers, places)) < world.satisfies[asked[:, None], product]
        goes_on = rng.random((answers, places)) < world.continues
        looks = np.cumprod(goes_on & ~((liked < attracts) & ends), axis=1, dtype=bool)
        looked = np.concatenate([np.ones((answers, 1), dtype=bool), looks[:, :-1]], axis=1)
        clicked = looked & (liked < attracts)
    else:
        clicked = liked < attracts * world.examined
    chances = swap_chances(places, swap_share)[ranks, np.arange(places)]
    return Impressions(
        np.repeat(np.arange(answers), places),
        np.repeat(asked, places),
        (asked[:, None] * places + product).reshape(-1),
        np.tile(np.arange(1, places + 1), answers),
        clicked.reshape(-1).astype(np.int64),
        chances.reshape(-1),
    )
