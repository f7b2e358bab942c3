"""Which tables a recipe asks for, how much each looks at recent items, and the share of new items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from training.recommend.behaviour import Behaviour, Cases, Items
from training.recommend.measured import ndcg
from training.recommend.mixture import FromTable, source_ranks
from training.recommend.recipe import RecommendRecipe
from training.recommend.tables import (
    Table,
    closed_form,
    equal_rows,
    keep_largest,
    similar_attributes,
    similar_texts,
    steps,
    taken_by,
    together,
)

_CHOOSING_CASES = 3000
NEW = "new"
"""The table of items that nobody took."""
COUNTS = "later"
"""The table that is counts from item to item and nothing else."""


def counts_of(sequences: Sequence[Items], items: int) -> NDArray[np.float32]:
    """How often each item was taken: float32 [items]."""
    every = np.concatenate(sequences) if len(sequences) else np.empty(0, dtype=np.int64)
    return np.bincount(every, minlength=items).astype(np.float32)


def make_tables(
    recipe: RecommendRecipe,
    behaviour: Behaviour,
    sequences: Sequence[Items],
    texts: NDArray[np.float32] | None,
) -> list[Table]:
    """All tables from what these sequences say, with the first recency of the recipe."""
    settings, items = recipe.tables, behaviour.items
    recency = settings.recencies[0]
    later = steps(sequences, items, window=settings.window)
    made: dict[str, tuple[sparse.csr_matrix, float]] = {
        "next": (steps(sequences, items, window=1), settings.doubt),
        COUNTS: (later, settings.doubt),
        "earlier": (steps(sequences, items, window=settings.window, backward=True), settings.doubt),
        "later_share": (equal_rows(later), 0.0),
    }
    taken = taken_by(sequences, items)
    made["together"] = (together(taken), 0.0)
    if settings.l2 and items <= settings.items_max:
        made["closed_form"] = (closed_form(taken, l2=settings.l2, neighbours=settings.neighbours), 0.0)
    counts = counts_of(sequences, items)
    shares = behaviour.attribute_shares()
    if shares is not None:
        made["attributes"] = (
            similar_attributes(shares, counts.astype(np.float64), neighbours=settings.neighbours),
            0.0,
        )
    if texts is not None:
        made["texts"] = (
            similar_texts(texts, neighbours=settings.neighbours, temperature=settings.temperature),
            0.0,
        )
    new = new_items(recipe, shares, texts, counts)
    if new is not None:
        made[NEW] = (new, 0.0)
    return [
        Table(name, keep_largest(weights, settings.neighbours).astype(np.float32), recency, doubt)
        for name, (weights, doubt) in made.items()
    ]


def new_items(
    recipe: RecommendRecipe,
    shares: sparse.csr_matrix | None,
    texts: NDArray[np.float32] | None,
    counts: NDArray[np.float32],
) -> sparse.csr_matrix | None:
    """The table that names only items that nobody took, by text or else by attributes; None where there is
    none.
    """
    never, settings = counts == 0, recipe.tables
    if not recipe.new_share or not never.any():
        return None
    if texts is not None:
        found = similar_texts(
            texts, neighbours=settings.new_neighbours, temperature=settings.temperature, known=never
        )
    elif shares is not None:
        found = similar_attributes(
            shares, np.zeros(len(counts)), neighbours=settings.new_neighbours, known=never
        )
    else:
        return None
    return found if found.nnz else None


def choose_recency(
    recipe: RecommendRecipe, tables: Sequence[Table], validation: Cases
) -> tuple[list[Table], dict[str, dict[str, float]]]:
    """For each table the recency with the best nDCG@10 of the table alone, on some cases of the
    validation.

    Returns: the tables, and of each {recency: nDCG@10}.
    """
    # Drawn: files of behaviour are often sorted by shopper.
    drawn = np.random.default_rng(recipe.seed).permutation(len(validation))[:_CHOOSING_CASES].tolist()
    cases = Cases(
        [validation.users[at] for at in drawn],
        [validation.histories[at] for at in drawn],
        validation.targets[drawn],
    )
    chosen, found = [], {}
    for table in tables:
        figures = {}
        for recency in recipe.tables.recencies:
            source = FromTable(replace(table, recency=recency), recipe.history_max)
            figures[recency] = float(ndcg(source_ranks(source, cases, repeats=recipe.repeats)).mean())
        best = max(figures, key=lambda one: figures[one])
        chosen.append(replace(table, recency=best))
        found[table.name] = {f"{one:g}": round(value, 4) for one, value in figures.items()}
    return chosen, found


def with_new_share(weights: NDArray[np.float64], names: Sequence[str], share: float) -> NDArray[np.float64]:
    """The weights with at least `share` for new items: what nobody took before is rarely the validation's
    target, so the likeliest weights would never let it be seen.
    """
    if NEW not in names or weights[list(names).index(NEW)] >= share:
        return weights
    at = list(names).index(NEW)
    rest = np.delete(weights, at)
    raised = np.insert(rest / rest.sum() * (1.0 - share), at, share)
    return np.asarray(raised, dtype=np.float64)
