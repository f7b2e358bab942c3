"""From split behaviour to a section from which no shopper can be told.

What `training.recommend.fit` does, with every use of behaviour bounded, noised and accounted for, or left
out. Looks at shoppers: popularity, steps between items, the sequence model, the weights of the mixture. Does
not: items and their order, texts, attributes, the recipe. Left out, since it would look at them for little:
the choice of recencies, the final order, early stopping, and every figure of the card that is measured on
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse

from training.recipe import RecipeError
from training.recommend.behaviour import Behaviour, Items
from training.recommend.fit import claim, item_sides, named_items, text_vectors
from training.recommend.mixture import FromPopularity, FromTable, Source
from training.recommend.private.accounting import ACCOUNTANT, Budget, Part, allot
from training.recommend.private.bounded import SENSITIVITY, shopper_sequences, step_sums, taken_sums
from training.recommend.private.noise import Noise, secret_of
from training.recommend.private.sequence import (
    new_private_model,
    sample_rate,
    train_private_sequence,
    with_popularity,
)
from training.recommend.private.tables import noisy_popularity, noisy_steps
from training.recommend.private.weights import private_weights
from training.recommend.recipe import PrivacyRecipe, RecommendRecipe
from training.recommend.relations import COUNTS, NEW, new_items, with_new_share
from training.recommend.section import Contents
from training.recommend.sequence import FromModel
from training.recommend.tables import Table, keep_largest, similar_attributes, similar_texts

LIKED = "attributes_liked"
"""The table of items with the same attributes, the more popular first."""
_DOUBT = 10.0
"""Deviations of the noise for which evidence from steps must stand to be as much as doubt."""
PUBLIC = [
    "the items, their order, texts and attributes",
    "the recipe, shares and noise",
    "how many shoppers there are",
]
LEFT_OUT = [
    "the choice of recencies",
    "the final order",
    "early stopping of the sequence model",
    "figures measured on the validation",
]
NOT_COVERED = [
    "figures of muster evaluate on shoppers of the same file, and choices made by them",
    "the run folder and the file of behaviour",
    "other trainings from the same shoppers: each spends its own epsilon, and they add up",
    "what a service remembers of shoppers",
]


@dataclass(frozen=True)
class _Learning:
    """What every part of one run is given."""

    recipe: RecommendRecipe
    privacy: PrivacyRecipe
    behaviour: Behaviour
    shoppers: list[Items]
    shares: sparse.csr_matrix | None
    texts: NDArray[np.float32] | None
    budget: Budget
    noise: Noise

    def deviation(self, part: str) -> float:
        """Standard deviation of a part's noise."""
        return self.budget.noise(part) * SENSITIVITY


def private_fit(
    recipe: RecommendRecipe,
    behaviour: Behaviour,
    run: Path,
    *,
    note: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], object] = lambda _: None,
) -> Contents:
    """Learn a section under `recipe.privacy`. behaviour: read with `listed_only`.

    The noise follows from a secret in the run folder: the same folder gives the same section again, and
    spends nothing more. Raises: as `training.recommend.fit.fit`; RecipeError where the budget cannot be kept.
    """
    privacy = recipe.privacy
    if privacy is None:
        raise ValueError("the recipe has no section [privacy]")
    if privacy.delta * behaviour.shoppers >= 1.0:
        raise RecipeError(
            f"privacy.delta is {privacy.delta:g}, and there are {behaviour.shoppers} shoppers: name well "
            f"below {1.0 / behaviour.shoppers:.2g}, else one of them may be given away altogether"
        )
    run.mkdir(parents=True, exist_ok=True)
    claimed = claim(recipe, behaviour, run)
    note("budget")
    shares = behaviour.attribute_shares()
    described = shares is not None or (bool(recipe.pretrained) and any(behaviour.texts))
    budget = allot(
        parts_of(recipe, privacy, behaviour, described=described),
        privacy.epsilon,
        privacy.delta,
    )
    note("texts")
    texts = text_vectors(recipe, behaviour, run)
    shoppers = shopper_sequences(behaviour, privacy.contributions_max)
    learning = _Learning(
        recipe, privacy, behaviour, shoppers, shares, texts, budget, Noise(secret_of(run), claimed)
    )
    note("tables")
    popularity = noisy_popularity(
        taken_sums(shoppers, behaviour.items), learning.noise, learning.deviation("popularity")
    )
    sources: list[Source] = [FromTable(one, recipe.history_max) for one in _tables(learning, popularity)]
    sources.append(FromPopularity(popularity))
    names = {one.part.name for one in budget.spent}
    if "sequence" in names:
        note("sequence")
        sources.append(_sequence(learning, popularity, run))
    note("mixture")
    # New items have their share by the recipe alone.
    chosen = np.array([one.name != NEW for one in sources])
    weights = chosen / chosen.sum()
    if "weights" in names:
        weights[chosen] = private_weights(
            [one for one in sources if one.name != NEW],
            behaviour.validation,
            learning.noise,
            learning.deviation("weights"),
            repeats=recipe.repeats,
            tick=progress,
        )
    weights = with_new_share(weights, [one.name for one in sources], recipe.new_share)
    told = {one.name: round(float(weight), 4) for one, weight in zip(sources, weights, strict=True)}
    card = {
        "name": recipe.name,
        "known": recipe.known,
        "seed": recipe.seed,
        "behaviour": _described(behaviour),
        "weights": told,
        "order": {"earned": False},
        "privacy": privacy_card(privacy, behaviour, budget),
    }
    return Contents(
        behaviour.item_ids,
        sources,
        weights,
        recipe.repeats,
        recipe.history_max,
        recipe.order.candidates,
        None,
        card,
    )


def parts_of(
    recipe: RecommendRecipe,
    privacy: PrivacyRecipe,
    behaviour: Behaviour,
    *,
    described: bool,
) -> list[Part]:
    """The parts that look at shoppers. described: something is known of the items, attributes or texts."""
    shares = privacy.shares
    parts = [
        Part("popularity", shares.popularity),
        Part("steps", shares.steps * (behaviour.items <= recipe.tables.items_max)),
        Part(
            "sequence",
            shares.sequence * (described and recipe.sequence.epochs > 0),
            sample_rate(privacy, behaviour.shoppers),
            privacy.steps,
        ),
        Part("weights", shares.weights),
    ]
    return [one for one in parts if one.share > 0]


def privacy_card(privacy: PrivacyRecipe, behaviour: Behaviour, budget: Budget) -> dict[str, Any]:
    """What the card says of privacy."""
    return {
        "epsilon": round(budget.epsilon, 4),
        "epsilon_asked": privacy.epsilon,
        "delta": budget.delta,
        "unit": "shopper: everything that one user_id took",
        "neighbours": "one shopper took nothing instead",
        "accountant": f"opacus {version('opacus')}, {ACCOUNTANT}",
        "shoppers": behaviour.shoppers,
        "contributions_max": privacy.contributions_max,
        "clip": privacy.clip,
        "parts": [
            {
                "name": one.part.name,
                "noise": round(one.noise, 4),
                "sample_rate": round(one.part.sample_rate, 6),
                "steps": one.part.steps,
                "epsilon_alone": round(one.epsilon, 4),
            }
            for one in budget.spent
        ],
        "public": PUBLIC,
        "left_out": LEFT_OUT,
        "not_covered": NOT_COVERED,
    }


def _described(behaviour: Behaviour) -> dict[str, Any]:
    """Figures of a set of behaviour that say nothing of what was taken."""
    return {
        "name": behaviour.name,
        "kind": behaviour.kind,
        "items": behaviour.items,
        "shoppers": behaviour.shoppers,
        "texts": sum(bool(one) for one in behaviour.texts),
        "attributes": sum(bool(one) for one in behaviour.attributes),
    }


def _tables(learning: _Learning, popularity: NDArray[np.float32]) -> list[Table]:
    settings, names = learning.recipe.tables, {one.part.name for one in learning.budget.spent}
    behaviour, shares, texts = learning.behaviour, learning.shares, learning.texts
    made: dict[str, tuple[sparse.csr_matrix, float]] = {}
    if "steps" in names:
        sums = step_sums(learning.shoppers, behaviour.items, window=settings.window)
        table = noisy_steps(sums, learning.noise, learning.deviation("steps"), neighbours=settings.neighbours)
        made[COUNTS] = (table, max(settings.doubt, _DOUBT * learning.deviation("steps")))
    if shares is not None:
        # Once as anybody could, and once by popularity, in deviations of its noise where that is above 1: so
        # that noise never outweighs what attributes say.
        liked = popularity.astype(np.float64) / max(1.0, learning.deviation("popularity"))
        for name, by in (("attributes", np.zeros(behaviour.items)), (LIKED, liked)):
            table = similar_attributes(shares, by, neighbours=settings.neighbours)
            made[name] = (table, 0.0)
    if texts is not None:
        table = similar_texts(texts, neighbours=settings.neighbours, temperature=settings.temperature)
        made["texts"] = (table, 0.0)
    new = new_items(learning.recipe, shares, texts, popularity)
    if new is not None:
        made[NEW] = (new, 0.0)
    recency = learning.privacy.recency
    return [
        Table(name, keep_largest(weights, settings.neighbours).astype(np.float32), recency, doubt)
        for name, (weights, doubt) in made.items()
    ]


def _sequence(learning: _Learning, popularity: NDArray[np.float32], run: Path) -> FromModel:
    recipe, behaviour = learning.recipe, learning.behaviour
    known = item_sides(behaviour, learning.texts)
    sides = with_popularity(known, popularity)
    model = new_private_model(recipe.sequence, sides, behaviour.items, seed=recipe.seed)
    weights = run / "sequence.private.safetensors"
    if weights.is_file():
        model.load_state_dict(load_file(weights))
    else:
        train_private_sequence(
            recipe.sequence,
            learning.privacy,
            model,
            learning.shoppers,
            count=behaviour.shoppers,
            noise=learning.noise,
            multiplier=learning.budget.noise("sequence"),
        )
        save_file({key: one.contiguous() for key, one in model.state_dict().items()}, weights)
    return FromModel(model.eval(), named_items(np.zeros(behaviour.items, dtype=np.bool_), known))
