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
from tqdm import tqdm  # type: ignore[import-untyped]

from training.cross import Group, Pieces, labelled_groups, train_cross
from training.data.batches import pieces_of
from training.data.text import product_text
from training.models.networks import save_model
from training.prepare import Prepared, load_prepared
from training.recipe import Recipe, stage_arguments
from training.teacher import Teachers, training_queries
from training.tracking import open_tracker


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
        checkpoint = run / "distil" / f"{'student' if fold is None else f'fold{fold}'}.checkpoint"
        with open_tracker(recipe.tracking, run, f"distil/{checkpoint.stem}") as tracker:
            model = train_cross(
                recipe,
                settings,
                prepared,
                groups,
                pieces.specials,
                seed=seed,
                name=name,
                checkpoint=checkpoint,
                tracker=tracker,
            )
        save_model(path, model)
        checkpoint.unlink(missing_ok=True)
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

    fold: use only the teachers that never saw this fold; None: each query is scored by the teachers that
    never saw it (unlabelled queries by all of them). The scale is that of `training.teacher.Teachers`.
    Raises: FileNotFoundError, saying which stage comes first.
    """
    settings = recipe.cross_small
    queries = [query for query in prepared.queries if query.split == "train"]
    places = [(name, key) for name in pieces.sets for key in pieces.sets[name]]
    pool = [pieces.sets[name][key] for name, key in places]
    holders: dict[int, list[int]] = {}
    for at, row in enumerate(pool):
        for piece in set(row):
            holders.setdefault(piece, []).append(at)
    teachers = Teachers(recipe, run)
    groups = []
    size = settings.group
    for _ in tqdm(range(max(1, settings.pairs // size)), desc="teachers' scores", mininterval=10):
        query = queries[int(chooser.integers(len(queries)))]
        asked = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
        if not asked:
            continue
        # Rare pieces say more about a query than common ones.
        rare = sorted((piece for piece in asked if piece in holders), key=lambda piece: len(holders[piece]))
        near = [at for piece in rare[:2] for at in holders[piece]]
        chosen = [int(at) for at in chooser.integers(len(pool), size=size // 4)]
        if near:
            chosen += [near[int(at)] for at in chooser.integers(len(near), size=size - len(chosen))]
        drawn = list(dict.fromkeys(chosen))
        texts = [
            product_text(prepared.products[name][key], recipe.text.cross_fields)
            for name, key in (places[at] for at in drawn)
        ]
        which = teachers.fold_for(query) if fold is None else fold
        scores = teachers.score(query.text, texts, fold=which)
        groups.append(Group(asked, [pool[at] for at in drawn], [], scores))
    return groups


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("The small cross-encoder.", argv)
    print(distil(arguments.recipe, arguments.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
