"""LambdaMART models: training, and several seeds as one model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from training.recipe import RankRecipe

_SCALED = re.compile(r"^(leaf_value|internal_value)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Rows:
    """Training rows. values: float64 [n, features], NaN = unknown; gains: [n], 0 to 1; groups: list sizes."""

    values: NDArray[np.float64]
    gains: NDArray[np.float64]
    groups: list[int]


def train_forest(recipe: RankRecipe, rows: Rows, names: Sequence[str], *, seed: int) -> str:
    """Train LambdaMART with linear gains for several seeds; returns their mean as one LightGBM text model.

    Scores of the retrieval stages and models never count against a product, all else equal (`monotone` of the
    recipe).
    Source: Burges 2010, MSR-TR-2010-82; LightGBM's lambdarank.
    """
    levels = sorted(set(rows.gains.tolist()) | {0.0})
    labels = np.searchsorted(levels, rows.gains)
    models = []
    for number in range(recipe.seeds):
        data = lightgbm.Dataset(
            rows.values, labels, group=rows.groups, feature_name=list(names), free_raw_data=False
        )
        settings = {
            "objective": "lambdarank",
            "label_gain": levels,
            "lambdarank_truncation_level": 15,
            "num_leaves": recipe.leaves,
            "learning_rate": recipe.learning_rate,
            "lambda_l2": recipe.l2,
            "feature_fraction": recipe.feature_fraction,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "min_data_in_leaf": recipe.rows_min,
            "monotone_constraints": [recipe.monotone.get(name, 0) for name in names],
            "seed": seed + number,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        models.append(lightgbm.train(settings, data, num_boost_round=recipe.trees).model_to_string())
    return merge_forests(models)


def train_linear(recipe: RankRecipe, rows: Rows, names: Sequence[str], *, seed: int) -> str:
    """Fit non-negative weights of a few signals by pairwise logistic loss; returns them as a LightGBM model.

    With labels for some dozens of queries a handful of weights is all that can be learnt without loss. The
    trees split one signal each, so they are the weighted sum in fine steps. Unknown signals count as 0.
    Source: RankNet, Burges et al. 2005, with a linear scorer.
    """
    columns = [at for at, name in enumerate(names) if name in recipe.features]
    values = np.nan_to_num(rows.values[:, columns])
    scale = np.where(values.std(axis=0) > 1e-12, values.std(axis=0), 1.0)
    gaps, weights = [], []
    start = 0
    for size in rows.groups:
        gains = rows.gains[start : start + size]
        better, worse = np.nonzero(gains[:, None] > gains[None, :])
        if len(better):
            gaps.append((values[start + better] - values[start + worse]) / scale)
            weight = gains[better] - gains[worse]
            weights.append(weight / weight.sum())
        start += size
    gap, weight = np.concatenate(gaps), np.concatenate(weights) / len(gaps)

    def loss_of(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = gap @ weights
        loss = weight @ np.logaddexp(0.0, -margins) + 0.5 * recipe.linear_l2 * weights @ weights
        return float(loss), recipe.linear_l2 * weights - (weight * expit(-margins)) @ gap

    # Convex, so where it ends does not depend on where it starts.
    bounds = [(0.0, None)] * len(columns)
    found = minimize(loss_of, np.ones(len(columns)), jac=True, method="L-BFGS-B", bounds=bounds).x
    wanted = (values / scale) @ found
    shown = np.full_like(rows.values, np.nan)
    shown[:, columns] = values
    data = lightgbm.Dataset(shown, wanted, feature_name=list(names), free_raw_data=False)
    settings = {
        "objective": "regression",
        "num_leaves": 31,
        "learning_rate": 0.3,
        "min_data_in_leaf": 5,
        "interaction_constraints": [[at] for at in range(len(names))],
        "monotone_constraints": [int(at in columns) for at in range(len(names))],
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    return str(lightgbm.train(settings, data, num_boost_round=recipe.trees).model_to_string())


def merge_forests(models: Sequence[str]) -> str:
    """One LightGBM text model whose score is the mean of the given ones'.

    models: over the same features. The trees stand one after the other, their values divided by the number of
    models.
    Raises: ValueError for none.
    """
    if not models:
        raise ValueError("no model to merge")
    share = 1.0 / len(models)
    head = models[0][: models[0].index("Tree=0\n")]
    # The sizes would have to count bytes; LightGBM reads a model without them just as well.
    head = re.sub(r"^tree_sizes=.*\n", "", head, flags=re.MULTILINE)
    trees: list[str] = []
    for model in models:
        body = model[model.index("Tree=0\n") : model.index("end of trees")]
        for block in re.split(r"^Tree=\d+\n", body, flags=re.MULTILINE)[1:]:
            scaled = _SCALED.sub(
                lambda found: f"{found[1]}={' '.join(repr(float(x) * share) for x in found[2].split())}",
                block,
            )
            trees.append(f"Tree={len(trees)}\n{scaled.rstrip()}\n\n\n")
    return f"{head}{''.join(trees)}end of trees\n"


def score(model: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raw scores of rows [n, features], float64 [n]."""
    if len(values) == 0:
        return np.zeros(0)
    found = lightgbm.Booster(model_str=model).predict(values, raw_score=True, num_threads=1)
    return np.asarray(found, dtype=np.float64)
