"""Measured on made-up clicks: what position bias costs a ranker that learns from them, and what taking
it out gives back. `python -m training.clicks.trial --answers 20000 --seed 1`
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from training.clicks import judgements, propensity, simulate
from training.clicks.impressions import Floats

_GRADES = 31


def ndcg(scores: Floats, gains: Floats, places: int = 10) -> Floats:
    """nDCG with linear gains. scores, gains: float64 [queries, candidates]; returns [queries]."""
    discount = 1 / np.log2(np.arange(2, min(places, gains.shape[1]) + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, : len(discount)]
    best = -np.sort(-gains, axis=1)[:, : len(discount)]
    return np.asarray((np.take_along_axis(gains, order, axis=1) * discount).sum(1) / (best * discount).sum(1))


def learnt(features: Floats, gain: Floats, seed: int) -> Any:
    """LambdaMART over made-up signals. features: float64 [queries, candidates, signals]; gain: 0 to 1."""
    import lightgbm

    queries, candidates, signals = features.shape
    grades = np.rint(gain / max(float(gain.max()), 1e-9) * (_GRADES - 1)).astype(int).reshape(-1)
    data = lightgbm.Dataset(features.reshape(-1, signals), grades, group=[candidates] * queries)
    settings = {
        "objective": "lambdarank",
        "label_gain": list(range(_GRADES)),
        "num_leaves": 8,
        "min_data_in_leaf": 20,
        "learning_rate": 0.1,
        "seed": seed,
        "deterministic": True,
        "num_threads": 1,
        "verbose": -1,
    }
    return lightgbm.train(settings, data, 80)


def trial(*, answers: int = 20_000, queries: int = 200, seed: int = 1) -> dict[str, Any]:
    """True nDCG@10 on half of the queries of rankers that learnt from clicks on the other half.

    Returns: {"answers", "queries", "ndcg10": by way of learning, "gain": unbiased less naive, "low",
    "high": its bounds of 95 % over queries, "positions": truth and estimate}.
    """
    world = simulate.make_world(queries=2 * queries, seed=seed)
    halves = world.features[:queries], world.features[queries:]
    seen = simulate.World(
        halves[0],
        world.attraction[:queries],
        world.order[:queries],
        world.examined,
        world.satisfies[:queries],
        world.continues,
    )
    shown = simulate.draw_clicks(seen, answers=answers, seed=seed + 1)
    examined = propensity.by_interventions(propensity.count(shown))
    pair_products = np.unique(shown.product)
    ways: dict[str, Floats] = {}
    for name, found in (
        ("naive", judgements.gains(shown, None)),
        ("unbiased", judgements.gains(shown, examined)),
    ):
        placed = np.zeros(seen.attraction.size)
        placed[pair_products] = found
        ways[name] = placed.reshape(seen.attraction.shape)
    ways["truth"] = seen.attraction
    values: dict[str, Floats] = {}
    for name, gain in ways.items():
        model = learnt(halves[0], gain, seed)
        scores = model.predict(halves[1].reshape(-1, halves[1].shape[2]))
        values[name] = ndcg(np.asarray(scores).reshape(queries, -1), world.attraction[queries:])
    difference = values["unbiased"] - values["naive"]
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, queries, (2_000, queries))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "answers": answers,
        "queries": queries,
        "ndcg10": {name: round(float(value.mean()), 4) for name, value in values.items()},
        "gain": round(float(difference.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "positions": {"truth": world.examined.round(3).tolist(), "found": examined.round(3).tolist()},
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m training.clicks.trial")
    options.add_argument("--answers", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    print(json.dumps(trial(answers=given.answers, seed=given.seed), indent=2))
