"""What a set must hold to be learnt from; asked once all sets are read, split and free of leaks."""

from __future__ import annotations

from collections.abc import Mapping

from training.data.tables import TRAIN, UNLABELLED, DataTables
from training.recipe import DataSet, Recipe, RecipeError


def check_tables(recipe: Recipe, tables: Mapping[str, DataTables]) -> None:
    """Refuse sets that cannot be used as the recipe says. Raises: RecipeError naming set and first file."""
    queries = [query for found in tables.values() for query in found.queries]
    if not any(query.split == TRAIN and query.gains for query in queries):
        raise RecipeError(
            "no labelled training query is left: name the split train in queries or labels, leave the column "
            "out to have the set split, or raise splits.near_duplicate if the leakage check dropped them"
        )
    for one in recipe.data:
        found = tables[one.name]
        if one.role == "judged":
            _check_judged(recipe, one, found)
        elif one.role == "classes":
            _check_classes(one, found)


def _check_judged(recipe: Recipe, one: DataSet, found: DataTables) -> None:
    labelled = [query for query in found.queries if query.split == TRAIN and query.gains]
    where = f"data.{one.name} ({found.files[-1]})"
    if len(labelled) < recipe.folds:
        raise RecipeError(
            f"{where}: {len(labelled)} labelled training queries do not fill {recipe.folds} folds. Judge "
            "more queries, or give the set the role 'pairs', in which nothing is measured on it"
        )
    if not any(gain > 0 for query in labelled for gain in query.gains.values()):
        raise RecipeError(
            f"{where}: no training query has a product with a gain above 0. Check the column of the gains"
        )


def _check_classes(one: DataSet, found: DataTables) -> None:
    where = f"data.{one.name} ({found.files[0]})"
    trained = {text.label for text in found.classes if text.split == TRAIN}
    if len(trained) < 2:
        raise RecipeError(
            f"{where}: {len(trained)} classes have training texts, at least 2 are needed. Check the columns "
            "label and split"
        )
    wanted = set(one.classes) or {
        text.label for text in found.classes if text.split != UNLABELLED and text.label is not None
    }
    empty = sorted(str(label) for label in wanted - trained)
    if empty:
        raise RecipeError(
            f"{where}: no training text has the class {', '.join(empty)}. Add some, or take the class out of "
            f"the files and of data.{one.name}.classes"
        )
