"""Shoppers of the synthetic catalogue, and a bundle whose section `recommend/` has learnt from them.

They do not exist: each keeps to a few kinds of product and to the products of them that sell. What the
section is worth says nothing of a shop; what it costs is that of a real one of this size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from muster.products.synthetic import SyntheticCatalogue
from training.recommend.behaviour import read_behaviour
from training.recommend.recipe import OrderRecipe, RecommendRecipe, SequenceRecipe, TableRecipe, checked
from training.recommend.train import train

KINDS = 3
TAKEN = (4, 13)
"""At least, and below."""


def histories(products: int, shoppers: int, seed: int) -> list[list[str]]:
    """Product ids in the order in which each shopper took them, none twice.

    Of a kind those with the lower numbers are taken more often: by rank to the power of -1.
    """
    catalogue = SyntheticCatalogue(products, seed)
    of_kind: dict[int, list[str]] = {}
    for number in range(products):
        of_kind.setdefault(catalogue.facts(number).type, []).append(f"S{number:08d}")
    kinds = sorted(of_kind)
    ranks = {kind: 1.0 / np.arange(1, len(of_kind[kind]) + 1) for kind in kinds}
    shares = {kind: rank / rank.sum() for kind, rank in ranks.items()}
    draw = np.random.default_rng(seed)
    found: list[list[str]] = []
    for _ in range(shoppers):
        liked = draw.choice(kinds, size=min(KINDS, len(kinds)), replace=False)
        taken: dict[str, None] = {}
        for _ in range(int(draw.integers(*TAKEN))):
            kind = int(draw.choice(liked))
            taken[of_kind[kind][int(draw.choice(len(shares[kind]), p=shares[kind]))]] = None
        found.append(list(taken))
    return [items for items in found if len(items) > 2]


def trained(base: Path, folder: Path, *, products: int, shoppers: int, seed: int) -> Path:
    """A bundle with all of `base` and a section: tables, a sequence model of one epoch, a final order.

    Raises: BundleError, ProductError, RecipeError.
    """
    folder.mkdir(parents=True)
    rows = [
        {"user_id": f"u{n}", "items": items} for n, items in enumerate(histories(products, shoppers, seed))
    ]
    file = folder / "shoppers_sequences.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    recipe = RecommendRecipe(
        name="simulated",
        pretrained="",
        seed=seed,
        tables=TableRecipe(neighbours=50),
        sequence=SequenceRecipe(epochs=1, device="cpu"),
        order=OrderRecipe(trees=60),
    )
    out = folder / "bundle"
    train(checked(recipe), read_behaviour(file, seed=seed), folder / "run", out, base, Console(stderr=True))
    return out
