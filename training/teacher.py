"""Teacher: for each fold a cross-encoder on all pretrained layers, trained on the other folds' labels.

Writes `teacher/fold<k>.pt`; a fold whose file is there is not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.cross import Pieces, labelled_groups, train_cross
from training.data.folds import fold_of
from training.models.networks import save_model
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import Recipe, stage_arguments


def training_queries(recipe: Recipe, prepared: Prepared, without: int | None) -> list[JudgedQuery]:
    """Labelled training queries, without those of one fold (None: all of them)."""
    return [
        query
        for query in prepared.queries
        if query.split == "train"
        and query.gains
        and (without is None or fold_of(query.set, query.query_id, recipe.folds, recipe.seed) != without)
    ]


def train_teachers(recipe: Recipe, run: Path) -> list[Path]:
    """Run the stage. Returns the files, one a fold; none where the recipe distils no pairs."""
    if recipe.cross_small.pairs == 0:
        return []
    prepared = load_prepared(run)
    pieces = Pieces.of(recipe, prepared)
    files = []
    for fold in range(recipe.folds):
        path = run / "teacher" / f"fold{fold}.pt"
        files.append(path)
        if path.is_file():
            continue
        chooser = np.random.default_rng(recipe.seed + fold)
        queries = training_queries(recipe, prepared, fold)
        groups = labelled_groups(recipe, recipe.teacher, prepared, pieces, queries, chooser)
        model = train_cross(
            recipe,
            recipe.teacher,
            prepared,
            groups,
            pieces.specials,
            seed=recipe.seed + fold,
            name=f"teacher, fold {fold}",
        )
        save_model(path, model)
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Out-of-fold teachers.", argv)
    for path in train_teachers(arguments.recipe, arguments.run):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
