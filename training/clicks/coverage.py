"""How often the intervals of position bias hold the truth: `python -m training.clicks.coverage --worlds 40`.

Worlds and clicks are drawn, each method estimates with its intervals of 95 %, and printed is in how many
worlds the truth of each position lies inside. The cascade is measured on shoppers who look from the top on,
the others on shoppers who look by position: on the wrong kind no interval means anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest

from training.clicks import browsing, propensity, simulate
from training.clicks.answers import as_answers
from training.clicks.cascade import Cascade
from training.clicks.impressions import Floats, Impressions

METHODS = (*sorted(propensity.METHODS), "cascade")


@dataclass(frozen=True)
class Covered:
    """held: worlds whose truth lay inside, by what was estimated; of: worlds."""

    held: dict[str, int]
    of: int


def covered(method: str, *, worlds: int, answers: int, rounds: int, seed: int, quiet: bool = True) -> Covered:
    """Counts over worlds of seeds from `seed` on. rounds: resamples of each interval."""
    held: dict[str, int] = {}
    steps = track(
        range(worlds), description=method, console=Console(stderr=True), transient=True, disable=quiet
    )
    for number in steps:
        world = simulate.make_world(queries=30, seed=seed + number)
        shown = simulate.draw_clicks(
            world, answers=answers, swap_share=0.5, cascade=method == "cascade", seed=seed + 1_000 + number
        )
        for name, inside in _inside(method, world, shown, rounds, seed + 2_000 + number).items():
            held[name] = held.get(name, 0) + inside
    return Covered(held, worlds)


def _inside(
    method: str, world: simulate.World, shown: Impressions, rounds: int, seed: int
) -> dict[str, bool]:
    if method == "cascade":
        found = browsing.estimate_cascade(shown, rounds=rounds, seed=seed)
        bounds, truth = found.propensities, _true_looks(world, shown)
        continues = found.continues.low <= world.continues <= found.continues.high
        return {"looks on": continues, **_positions(bounds, truth)}
    return _positions(propensity.estimate(shown, method=method, rounds=rounds, seed=seed), world.examined)


def _positions(bounds: propensity.Propensities, truth: Floats) -> dict[str, bool]:
    inside = (bounds.low <= truth) & (truth <= bounds.high)
    # The first one is 1 by definition.
    return {f"position {at}": bool(one) for at, one in enumerate(inside, start=1) if at > 1}


def _true_looks(world: simulate.World, shown: Impressions) -> Floats:
    """What share of these answers' shoppers look at each position, by the truth."""
    answers = as_answers(shown)
    pair, pairs = shown.pairs()
    attracts, satisfies = np.zeros(pairs), np.zeros(pairs)
    product = shown.product % world.order.shape[1]
    attracts[pair] = world.attraction[shown.query, product]
    satisfies[pair] = world.satisfies[shown.query, product]
    return Cascade(attracts, satisfies, world.continues).examined(answers, np.ones(len(answers)))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m training.clicks.coverage", description=__doc__)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--answers", type=int, default=8_000, help="of each world")
    parser.add_argument("--rounds", type=int, default=100, help="resamples of each interval")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(argv)
    found = {
        method: covered(
            method,
            worlds=given.worlds,
            answers=given.answers,
            rounds=given.rounds,
            seed=given.seed,
            quiet=given.json,
        )
        for method in given.method or METHODS
    }
    if given.json:
        print(json.dumps({name: {"held": one.held, "of": one.of} for name, one in found.items()}, indent=2))
        return 0
    table = Table("method", "interval of", "held the truth", "95 %")
    for name, one in found.items():
        for what, held in one.held.items():
            table.add_row(name, what, f"{held} of {one.of}", _wilson(held, one.of))
        every = sum(one.held.values()), one.of * len(one.held)
        # Positions of one world are not independent, so no bounds.
        table.add_row(name, "all", f"{every[0]} of {every[1]}", "")
    Console(highlight=False, markup=False).print(table)
    return 0


def _wilson(held: int, of: int) -> str:
    bounds = binomtest(held, of).proportion_ci(method="wilson")
    return f"[{bounds.low:.2f}, {bounds.high:.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
