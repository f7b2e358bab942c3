"""Canaries: can it be told from a section who was learnt from?

    python -m training.recommend.private.canaries --data FILE [--recipe FILE] [--canaries 200] [--json]

Shoppers who never were are planted: each has two items of his own, which nobody else takes, and for each a
coin says whether he is learnt from. Whoever sees the section then guesses: of the canaries whose second item
a source gives the largest shares after the first, a third is said to be inside, of those with the smallest a
third to be outside, of the rest nothing. Without privacy the counts give every one of them away. With it no
guess may do better than epsilon allows. Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846 (auditing
with one training run).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from muster.products import ProductError
from training.recipe import RecipeError
from training.recommend.behaviour import Behaviour, Cases, read_behaviour
from training.recommend.fit import fit
from training.recommend.mixture import Source, shares_of
from training.recommend.private.fit import private_fit
from training.recommend.recipe import DEFAULT_RECIPE, load_recommend_recipe

EXIT_BAD_INPUT = 2
_SURE = 0.95


@dataclass(frozen=True)
class Canaries:
    """Planted shoppers. first, second: int64 [canaries], places of their items; inside: bool [canaries],
    whether each was learnt from.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Guessed:
    """How well one source gives canaries away. right: of `guesses`. epsilon_low: no mechanism with a smaller
    epsilon (and delta 0) lets so many guesses be right, with 95 % certainty.
    """

    source: str
    right: int
    guesses: int
    epsilon_low: float


def plant(behaviour: Behaviour, count: int, *, seed: int) -> tuple[Behaviour, Canaries]:
    """The same behaviour with canaries, of whom about half are learnt from.

    Their items are in the list of items in any case, with an attribute for each canary where attributes are
    known, and so are they among the shoppers.
    """
    inside = np.random.default_rng(seed).random(count) < 0.5
    first = behaviour.items + 2 * np.arange(count)
    canaries = Canaries(first, first + 1, inside)
    users = [f"canary {at}" for at in np.flatnonzero(inside).tolist()]
    taken = [np.array([a, a + 1]) for a in first[inside].tolist()]
    before, known = behaviour.validation, bool(behaviour.attributes)
    made = [(f"canary {at}",) for at in range(count) for _ in range(2)]
    return (
        replace(
            behaviour,
            item_ids=[*behaviour.item_ids, *(f"canary {at}" for at in range(2 * count))],
            train=[*behaviour.train, *taken],
            train_users=[*behaviour.train_users, *users],
            validation=Cases(
                [*before.users, *users],
                [*before.histories, *(one[:1] for one in taken)],
                np.concatenate([before.targets, canaries.second[inside]]),
            ),
            texts=[*behaviour.texts, *([""] * (2 * count))] if behaviour.texts else [],
            attributes=[*behaviour.attributes, *made] if known else [],
            shoppers=behaviour.shoppers + count,
        ),
        canaries,
    )


def guessed(sources: Sequence[Source], canaries: Canaries, *, repeats: bool) -> list[Guessed]:
    """How well each source gives them away, see the module. repeats: of the section."""
    shares = shares_of(sources, [np.array([at]) for at in canaries.first.tolist()], repeats)
    own = shares[:, np.arange(len(canaries.first)), canaries.second]
    third = max(1, len(canaries.first) // 3)
    found = []
    for source, share in zip(sources, own, strict=True):
        order = np.argsort(-share, kind="stable")
        right = int(canaries.inside[order[:third]].sum() + (~canaries.inside[order[-third:]]).sum())
        found.append(Guessed(source.name, right, 2 * third, epsilon_low(right, 2 * third)))
    return found


def epsilon_low(right: int, guesses: int) -> float:
    """The smallest epsilon under which so many right guesses are not too good to be true, delta being 0.

    Under epsilon each guess is right with a chance of at most e^epsilon / (1 + e^epsilon), whatever the
    others are (Steinke et al. 2023, theorem 5.2).
    """
    chance = float(stats.beta.ppf(1.0 - _SURE, right, guesses - right + 1)) if right else 0.0
    return max(0.0, math.log(chance / (1.0 - chance))) if 0.0 < chance < 1.0 else 0.0


def _show(found: Mapping[str, Sequence[Guessed]]) -> None:
    table = Table(title="canaries: who was learnt from?")
    for column in ("section", "source", "guessed right", "share", "epsilon at least"):
        table.add_column(column, justify="left" if column in ("section", "source") else "right")
    for section, rows in found.items():
        for row in rows:
            share = f"{row.right / row.guesses:.3f}"
            table.add_row(
                section, row.source, f"{row.right} of {row.guesses}", share, f"{row.epsilon_low:.2f}"
            )
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Train with and without the recipe's privacy and guess. Returns the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="canaries", description="Who was learnt from, told by a section.")
    parser.add_argument(
        "--data", type=Path, required=True, help="file of behaviour, or a folder that holds one"
    )
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file with [privacy]")
    parser.add_argument("--canaries", type=int, default=200, help="how many to plant")
    parser.add_argument("--seed", type=int, default=1, help="of the coins")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(argv)
    try:
        if given.canaries < 2:
            raise RecipeError(f"--canaries must be at least 2, not {given.canaries}")
        recipe = load_recommend_recipe(given.recipe)
        if recipe.privacy is None:
            raise RecipeError(f"{given.recipe} has no section [privacy]: there is nothing to compare")
        behaviour = read_behaviour(given.data, seed=recipe.seed, listed_only=True)
        planted, canaries = plant(behaviour, given.canaries, seed=given.seed)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, chosen, learn in (
                ("without privacy", replace(recipe, privacy=None), fit),
                (f"epsilon {recipe.privacy.epsilon:g}", recipe, private_fit),
            ):
                contents = learn(chosen, planted, Path(folder) / name)
                found[name] = guessed(contents.sources, canaries, repeats=recipe.repeats)
    except (RecipeError, ProductError, ValueError, OSError) as error:
        print(f"canaries: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if given.json:
        print(json.dumps({name: [asdict(one) for one in rows] for name, rows in found.items()}, indent=2))
    else:
        _show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
