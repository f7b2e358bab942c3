"""Distil: the small cross-encoder, from labels and from the teachers' scores of unlabelled pairs.

For each fold a student that saw neither the fold's labels nor a teacher that did, to measure what the tier is
worth on unseen queries; then the student that ships, trained on all of them. Writes `distil/fold<k>.pt` and
`cross_small.pt`; what is there is not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.cross import Group, Pieces, labelled_groups, score_products, train_cross
from training.data.batches import pieces_of
from training.data.folds import fold_of
from training.models.networks import load_cross, save_model
from training.prepare import Prepared, load_prepared
from training.recipe import Recipe, stage_arguments
from training.teacher import training_queries


def distil(recipe: Recipe, run: Path) -> Path:
    """Run the stage. Returns the file of the student that ships."""
    prepared = load_prepared(run)
    pieces = Pieces.of(recipe, prepared)
    settings = recipe.cross_small
    for fold in (*range(recipe.folds), None):
        path = run / ("cross_small.pt" if fold is None else f"distil/fold{fold}.pt")
        if path.is_file():
            continue
        seed = recipe.seed + 100 + (recipe.folds if fold is None else fold)
        chooser = np.random.default_rng(seed)
        queries = training_queries(recipe, prepared, fold)
        groups = labelled_groups(recipe, settings, prepared, pieces, queries, chooser)
        if settings.pairs:
            groups += teacher_groups(recipe, run, prepared, pieces, fold, chooser)
        name = "student" if fold is None else f"student, fold {fold}"
        model = train_cross(recipe, settings, prepared, groups, pieces.specials, seed=seed, name=name)
        save_model(path, model)
    return run / "cross_small.pt"


def teacher_groups(
    recipe: Recipe,
    run: Path,
    prepared: Prepared,
    pieces: Pieces,
    fold: int | None,
    chooser: np.random.Generator,
) -> list[Group]:
    """Steps from teachers: training queries with products of any set, half of them sharing a word.

    fold: use only the teacher that never saw this fold; None: each query is scored by the teacher that never
    saw it (unlabelled queries by the first).
    Raises: FileNotFoundError, saying which stage comes first.
    """
    settings = recipe.cross_small
    queries = [query for query in prepared.queries if query.split == "train"]
    names = list(pieces.sets)
    pool = [row for name in names for row in pieces.sets[name].values()]
    holders: dict[int, list[int]] = {}
    for at, row in enumerate(pool):
        for piece in set(row):
            holders.setdefault(piece, []).append(at)
    models = {}
    groups = []
    size = settings.group
    for _ in range(max(1, settings.pairs // size)):
        query = queries[int(chooser.integers(len(queries)))]
        which = fold
        if which is None:
            which = fold_of(query.set, query.query_id, recipe.folds, recipe.seed) if query.gains else 0
        if which not in models:
            path = run / "teacher" / f"fold{which}.pt"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: run `python -m training.teacher` first")
            models[which] = load_cross(path)
        asked = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
        if not asked:
            continue
        # Rare pieces say more about a query than common ones.
        rare = sorted((piece for piece in asked if piece in holders), key=lambda piece: len(holders[piece]))
        near = [at for piece in rare[:2] for at in holders[piece]]
        chosen = [int(at) for at in chooser.integers(len(pool), size=size // 4)]
        if near:
            chosen += [near[int(at)] for at in chooser.integers(len(near), size=size - len(chosen))]
        rows = [pool[at] for at in dict.fromkeys(chosen)]
        scores = score_products(models[which], asked, rows, pieces.specials)
        groups.append(Group(asked, rows, [], scores))
    return groups


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("The small cross-encoder.", argv)
    print(distil(arguments.recipe, arguments.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
