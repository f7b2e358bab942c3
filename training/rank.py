"""Rank: a ranker for each tier, over every score, match feature and live column that the tier has.

Each is trained twice over: out of fold, in several partitions of the queries, to measure with (a query is
only ever ranked by a ranker that never saw it); and once on the split `train`, to ship, so that a
measurement on another split stays one of unseen queries. Whether it ships is for `training.earn` to say.

Writes `rank/`: signals.npz, and plain.json, the nDCG@10 of an untuned fusion (both are kept for as long as
of.txt says that they come of the same models and settings); out_of_fold.npz and <tier>.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.folds import fold_of
from training.data.whole_files import write_report, write_text
from training.models.forest import Rows, score, train_forest, train_linear
from training.recipe import CROSS_TIERS, Recipe, stage_arguments
from training.signals import (
    TIERS,
    CandidateList,
    Rankers,
    collect,
    digest_of_inputs,
    load_lists,
    order_of,
    plain_fusion,
    save_lists,
)

# Seeds of two partitions lie this far apart.
_STRIDE = 7919


def tiers_of(lists: Sequence[CandidateList]) -> list[str]:
    """The tiers that have been trained, from cheap to dear."""
    return [tier for tier in TIERS if tier not in CROSS_TIERS or all(tier in one.crosses for one in lists)]


def deepest(recipe: Recipe, lists: Sequence[CandidateList], tier: str) -> int:
    """How many candidates a tier re-ranks at most."""
    return max(recipe.plans.cross_depths) if tier in CROSS_TIERS else max(len(one.gains) for one in lists)


def partition(recipe: Recipe, lists: Sequence[CandidateList], number: int) -> NDArray[np.int64]:
    """The fold of each list in one of the partitions of the queries. At least three: folds are nested."""
    folds = max(3, recipe.folds)
    return np.array([fold_of(one.set, one.query_id, folds, recipe.seed + _STRIDE * number) for one in lists])


def train_tier(
    recipe: Recipe,
    names: Sequence[str],
    lists: Sequence[CandidateList],
    tier: str,
    chosen: Sequence[NDArray[np.int64]],
    members: Sequence[int],
) -> str:
    """One ranker, from some of the lists. chosen: of each list, the candidates to learn from.

    Returns a LightGBM text model. Raises: ValueError where no list has two candidates of different worth.
    """
    values, gains, groups = [], [], []
    for at in members:
        one, rows = lists[at], chosen[at]
        if len(rows) < 2 or not one.gains[rows].any():
            continue
        values.append(one.signals(names, tier)[rows])
        gains.append(one.gains[rows])
        groups.append(len(rows))
    if not groups:
        raise ValueError(
            f"no query of these {len(members)} lists has a relevant candidate to learn {tier} from"
        )
    rows_of_all = Rows(np.concatenate(values), np.concatenate(gains), groups)
    train = train_linear if recipe.rank.kind == "linear" else train_forest
    return train(recipe.rank, rows_of_all, names, seed=recipe.seed)


def climb(
    recipe: Recipe,
    names: Sequence[str],
    lists: Sequence[CandidateList],
    folds: NDArray[np.int64],
    hidden: int | None = None,
) -> dict[str, list[NDArray[np.float64]]]:
    """Tier to the ranker scores of each list, by a ranker that never saw the list's fold.

    folds: of each list. hidden: a fold that no ranker sees at all; its own lists are ranked by rankers of all
    the others.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    for tier in tiers_of(lists):
        chosen = _rows(recipe, names, lists, tier, found)
        scores: list[NDArray[np.float64]] = [np.empty(0)] * len(lists)
        for fold in np.unique(folds):
            members = np.flatnonzero((folds != fold) & (folds != (fold if hidden is None else hidden)))
            model = train_tier(recipe, names, lists, tier, chosen, members.tolist())
            own = np.flatnonzero(folds == fold).tolist()
            # One call for all lists: opening a model costs more than scoring a list.
            together = score(model, np.concatenate([lists[at].signals(names, tier) for at in own]))
            ends = np.cumsum([len(lists[at].gains) for at in own])[:-1]
            for at, part in zip(own, np.split(together, ends), strict=True):
                scores[at] = part
        found[tier] = scores
    return found


def _rows(
    recipe: Recipe, names: Sequence[str], lists: Sequence[CandidateList], tier: str, rankers: Rankers
) -> list[NDArray[np.int64]]:
    """Which candidates of each list a tier's ranker is trained on: those it would be asked to order."""
    depth = deepest(recipe, lists, tier)
    most = min(depth, recipe.rank.rows)
    return [order_of(names, one, at, tier, depth, rankers)[:most] for at, one in enumerate(lists)]


def train_rankers(recipe: Recipe, run: Path) -> list[Path]:
    """Run the stage. Returns the rankers that may ship."""
    out = run / "rank"
    out.mkdir(parents=True, exist_ok=True)
    made_of = digest_of_inputs(recipe, run)
    if not (out / "of.txt").is_file() or (out / "of.txt").read_text() != made_of:
        (out / "of.txt").unlink(missing_ok=True)
        save_lists(out / "signals.npz", *collect(recipe, run))
        write_report(out / "plain.json", plain_fusion(recipe, run))
        write_text(out / "of.txt", made_of)
    names, lists = load_lists(out / "signals.npz")
    scores = {}
    for number in tqdm(range(recipe.plans.partitions), desc="rankers, out of fold", mininterval=5):
        for tier, found in climb(recipe, names, lists, partition(recipe, lists, number)).items():
            scores[f"{tier}:{number}"] = np.concatenate(found)
    np.savez_compressed(out / "out_of_fold.npz", allow_pickle=False, **scores)
    shipped = [at for at, one in enumerate(lists) if one.split == "train"]
    first = load_out_of_fold(out / "out_of_fold.npz", lists)[0]
    for old in out.glob("*.txt"):
        old.unlink()
    paths = []
    for tier in tiers_of(lists):
        text = train_tier(recipe, names, lists, tier, _rows(recipe, names, lists, tier, first), shipped)
        paths.append(out / f"{tier}.txt")
        paths[-1].write_text(text)
    return paths


def load_out_of_fold(
    path: Path, lists: Sequence[CandidateList]
) -> list[dict[str, Sequence[NDArray[np.float64]]]]:
    """For each partition, tier to the out-of-fold ranker scores of each list."""
    ends = np.cumsum([len(one.gains) for one in lists])[:-1]
    found: dict[int, dict[str, Sequence[NDArray[np.float64]]]] = {}
    with np.load(path) as saved:
        for name in saved.files:
            tier, number = name.split(":")
            found.setdefault(int(number), {})[tier] = np.split(saved[name], ends)
    return [found[number] for number in sorted(found)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Rankers of every tier, to be gated.", argv)
    for path in train_rankers(arguments.recipe, arguments.run):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
