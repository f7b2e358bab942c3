"""Signals: what the engine and the cross-encoders say of every candidate of every labelled query.

They come from the engine itself, driven with the draft bundle over each judged set's own catalogue; those of
a cross-encoder come from the student that never saw the query's fold, in int8 as it would be served. Each
query gives two lists: what is retrieved from the whole catalogue, and its judged products alone. From them
the order of any plan can be worked out, and measured, without asking a model again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

import rankcore
from muster.v1 import catalogue_pb2
from training.cross import Pieces
from training.data.batches import pieces_of
from training.data.folds import fold_of
from training.engine import open_catalogue
from training.export import DRAFT, write_draft
from training.measure import CUTOFF, best_first, fast_ndcg
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.quality import ScorePairs, onnx_scorer
from training.quantise import onnx_files, open_session
from training.recipe import CROSS_TIERS, Recipe

TIERS = ("lexical", "hybrid", "late", *CROSS_TIERS)
OWN_SCORE = {"lexical": "bm25", "hybrid": "fused", "late": "late"} | dict.fromkeys(CROSS_TIERS, "cross")
SETTINGS = ("catalogue", "judged")

# Signals that a tier does not compute: NaN for its ranker, in training as in service.
_ABSENT = {
    "lexical": ("dense", "dense_rank", "fused", "late", "late_share", "late_max_gap", "cross"),
    "hybrid": ("late", "late_share", "late_max_gap", "cross"),
    "late": ("cross",),
}


@dataclass(frozen=True)
class CandidateList:
    """Candidates of one query in one setting.

    values: float64 [n, names] at the late tier, the signal `cross` unknown. gains: [n], 0 to 1, unjudged = 0.
    ideal: all gains known of the query. crosses: tier to the out-of-fold scores of its cross-encoder, [n],
    NaN where it would never be asked.
    """

    set: str
    query_id: str
    split: str
    fold: int
    setting: str
    values: NDArray[np.float64]
    gains: NDArray[np.float64]
    ideal: NDArray[np.float64]
    crosses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def signals(self, names: Sequence[str], tier: str) -> NDArray[np.float64]:
        """The signals as a tier has them, [n, names]: what it does not compute is NaN."""
        values = self.values.copy()
        for name in _ABSENT.get(tier, ()):
            if name in names:
                values[:, names.index(name)] = np.nan
        if tier in self.crosses:
            values[:, names.index("cross")] = self.crosses[tier]
        return values

    def own(self, names: Sequence[str], tier: str) -> NDArray[np.float64]:
        """The score that a tier orders by where it has no ranker, [n]."""
        return self.signals(names, tier)[:, names.index(OWN_SCORE[tier])]


Rankers = Mapping[str, Sequence[NDArray[np.float64]] | None]
"""Tier to the out-of-fold ranker scores of each list, or None for the tier's own score."""


def collect(recipe: Recipe, run: Path) -> tuple[list[str], list[CandidateList]]:
    """Ask the engine, and the students, about every labelled query of the recipe's splits.

    Returns: signal names, lists.
    """
    prepared = load_prepared(run)
    names: list[str] = []
    lists: list[CandidateList] = []
    pieces = Pieces.of(recipe, prepared)
    students = _students(recipe, run, pieces)
    for name, asked in labelled(recipe, prepared):
        top = max(gain for query in asked.queries for gain in query.gains.values())
        with open_catalogue(run / DRAFT, asked.products, cache=run / "catalogues") as catalogue:
            for query in tqdm(asked.queries, desc=f"signals, {name}", mininterval=5):
                words = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
                for setting in SETTINGS:
                    shown = asked.judged(query) if setting == "judged" else None
                    found = catalogue.signals(query.text, "late", product_ids=shown, width=recipe.rank.width)
                    names = found.names
                    one = CandidateList(
                        name,
                        query.query_id,
                        query.split,
                        fold_of(name, query.query_id, recipe.folds, recipe.seed),
                        setting,
                        found.values,
                        np.array([query.gains.get(key, 0.0) / top for key in found.product_ids]),
                        np.array([gain / top for gain in query.gains.values()]),
                    )
                    rows = [pieces.sets[name][key] for key in found.product_ids]
                    lists.append(_with_crosses(recipe, names, one, words, rows, students))
    return names, lists


def digest_of_inputs(recipe: Recipe, run: Path) -> str:
    """A name for all that the signals depend on: models, products, queries, and the settings that matter."""
    digest = hashlib.sha256()
    students = [path for tier in recipe.students() for path in onnx_files(run, tier, recipe.folds)[1:]]
    prepared = sorted(path for path in (run / "prepared").iterdir() if path.is_file())
    for path in (run / "onnx" / "encoder.onnx", *(path for path in students if path.is_file()), *prepared):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    depths, rank = max(recipe.plans.cross_depths), recipe.rank
    held = [
        asdict(recipe.text),
        asdict(recipe.lexical),
        rank.splits,
        rank.width,
        depths,
        recipe.folds,
        recipe.seed,
    ]
    digest.update(json.dumps([*held, rankcore.ANALYSER], sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Labelled:
    """The products of a set, and the queries that have a relevant one."""

    known: Mapping[str, catalogue_pb2.Product]
    queries: Sequence[JudgedQuery]

    @property
    def products(self) -> list[catalogue_pb2.Product]:
        return list(self.known.values())

    def judged(self, query: JudgedQuery) -> list[str]:
        return [key for key in query.gains if key in self.known]


def labelled(recipe: Recipe, prepared: Prepared) -> Iterator[tuple[str, Labelled]]:
    """Each judged set with what is to be ranked in it, over the recipe's splits."""
    for one in recipe.judged():
        queries = [
            query
            for split in recipe.rank.splits
            for query in prepared.of(one.name, split)
            if max(query.gains.values(), default=0) > 0
        ]
        yield one.name, Labelled(prepared.products[one.name], queries)


def plain_fusion(recipe: Recipe, run: Path) -> Measured:
    """nDCG@10 of what anyone has without tuning or training: BM25 over all text, fused with the encoder.

    With equal boosts BM25F is BM25 over the fields joined together.
    """
    boosts = dict.fromkeys(recipe.lexical.boosts, 1.0)
    plain = run / "plain"
    write_draft(replace(recipe, lexical=replace(recipe.lexical, boosts=boosts)), run, plain, tiers=())
    found: Measured = {setting: {} for setting in SETTINGS}
    for one, asked in labelled(recipe, load_prepared(run)):
        with open_catalogue(plain, asked.products, cache=run / "catalogues") as catalogue:
            for query in tqdm(asked.queries, desc=f"plain fusion, {one}", mininterval=5):
                for setting in SETTINGS:
                    shown = asked.judged(query) if setting == "judged" else None
                    signals = catalogue.signals(
                        query.text, "hybrid", product_ids=shown, width=recipe.rank.width
                    )
                    gains = np.array([query.gains.get(key, 0.0) for key in signals.product_ids])
                    value = fast_ndcg(
                        gains, best_first(signals.column("fused")), np.array(list(query.gains.values()))
                    )
                    found[setting].setdefault(one, {})[query.query_id] = value
    return found


def _students(recipe: Recipe, run: Path, pieces: Pieces) -> dict[str, list[ScorePairs]]:
    """Tier to its exported students, one a fold."""
    return {
        tier: [
            onnx_scorer(open_session(path), pieces.specials)
            for path in onnx_files(run, tier, recipe.folds)[1:]
        ]
        for tier in recipe.students()
        if onnx_files(run, tier, 0)[0].is_file()
    }


def _with_crosses(
    recipe: Recipe,
    names: Sequence[str],
    one: CandidateList,
    asked: Sequence[int],
    rows: Sequence[Sequence[int]],
    students: Mapping[str, Sequence[ScorePairs]],
) -> CandidateList:
    # A cross-encoder only ever sees the best by the tier below; some room is left for that tier's ranker to
    # order them differently, towards what retrieval put first.
    deepest = max(recipe.plans.cross_depths)
    heads = (best_first(one.own(names, tier))[: deepest + deepest // 4] for tier in ("late", "hybrid"))
    chosen = np.unique(np.concatenate(list(heads)))
    crosses = {}
    for tier, folds in students.items():
        crosses[tier] = np.full(len(one.gains), np.nan)
        crosses[tier][chosen] = folds[one.fold](asked, [rows[at] for at in chosen])
    return replace(one, crosses=crosses)


def order_of(
    names: Sequence[str],
    one: CandidateList,
    at: int,
    tier: str,
    depth: int,
    rankers: Rankers,
    settled_pairs: int = 0,
) -> NDArray[np.int64]:
    """Indices of a list's candidates as the engine orders them under a plan.

    at: the list's place in `rankers`. depth: candidates re-ranked; those below keep the cheaper order.
    settled_pairs: as in `pairs_read`, of a cross-encoder.
    """

    def by(of: str) -> NDArray[np.float64]:
        scores = rankers.get(of)
        return one.own(names, of) if scores is None else scores[at]

    if tier == "lexical":
        order = best_first(by("lexical"))
        if one.setting == "catalogue":
            retrieved = one.values[:, names.index("bm25_rank")] > 0
            order = order[retrieved[order]]
        return order
    if tier == "hybrid":
        return best_first(by("hybrid"))
    below = (
        best_first(one.values[:, names.index("fused")])
        if tier == "late"
        else order_of(names, one, at, "late", len(one.gains), rankers)
    )
    if tier in CROSS_TIERS:
        depth = pairs_read(by(tier)[below[:depth]], settled_pairs)
    head = below[:depth]
    return np.concatenate([head[best_first(by(tier)[head])], below[depth:]])


def pairs_read(scores: NDArray[np.float64], settled_pairs: int) -> int:
    """How many candidates a cross-encoder reads before the first page has settled.

    scores: [n], NaN where unknown, in the order of reading. settled_pairs: it stops once so many in a row
    have not reached the first CUTOFF; 0: never. The engine's rule, written apart from it.
    """
    if settled_pairs == 0:
        return len(scores)
    known = np.where(np.isnan(scores), -np.inf, scores)
    quiet = 0
    for place, score in enumerate(known):
        quiet = quiet + 1 if np.count_nonzero(known[:place] >= score) >= CUTOFF else 0
        if quiet == settled_pairs:
            return place + 1
    return len(scores)


Measured = dict[str, dict[str, dict[str, float]]]
"""Setting to set to query to nDCG@10."""


def measure(
    names: Sequence[str],
    lists: Sequence[CandidateList],
    tier: str,
    depth: int,
    rankers: Rankers,
    settled_pairs: int = 0,
) -> Measured:
    """nDCG@10 of one plan over all lists."""
    found: Measured = {setting: {} for setting in SETTINGS}
    for at, one in enumerate(lists):
        order = order_of(names, one, at, tier, depth, rankers, settled_pairs)
        found[one.setting].setdefault(one.set, {})[one.query_id] = fast_ndcg(one.gains, order, one.ideal)
    return found


def both_settings(measured: Measured) -> dict[str, dict[str, float]]:
    """Set to query to the mean of the two settings."""
    first, second = (measured[setting] for setting in SETTINGS)
    return {
        name: {query: 0.5 * (first[name][query] + second[name][query]) for query in first[name]}
        for name in first
    }


def save_lists(path: Path, names: Sequence[str], lists: Sequence[CandidateList]) -> None:
    """Write lists for `calibrate`."""
    head = [
        [one.set, one.query_id, one.split, one.fold, one.setting, len(one.gains), len(one.ideal)]
        for one in lists
    ]
    tiers = sorted({tier for one in lists for tier in one.crosses})
    crosses = {f"cross:{tier}": np.concatenate([one.crosses[tier] for one in lists]) for tier in tiers}
    np.savez_compressed(
        path,
        allow_pickle=False,
        head=np.frombuffer(json.dumps({"names": list(names), "lists": head}).encode(), dtype=np.uint8),
        values=np.concatenate([one.values for one in lists]),
        gains=np.concatenate([one.gains for one in lists]),
        ideal=np.concatenate([one.ideal for one in lists]),
        **crosses,
    )


def load_lists(path: Path) -> tuple[list[str], list[CandidateList]]:
    """What `save_lists` wrote. Raises: FileNotFoundError."""
    with np.load(path) as saved:
        head = json.loads(saved["head"].tobytes())
        values, gains, ideal = saved["values"], saved["gains"], saved["ideal"]
        crosses = {
            name.removeprefix("cross:"): saved[name] for name in saved.files if name.startswith("cross:")
        }
    lists = []
    row = known = 0
    for name, query, split, fold, setting, size, judged in head["lists"]:
        lists.append(
            CandidateList(
                name,
                query,
                split,
                fold,
                setting,
                values[row : row + size],
                gains[row : row + size],
                ideal[known : known + judged],
                {tier: scores[row : row + size] for tier, scores in crosses.items()},
            )
        )
        row, known = row + size, known + judged
    return head["names"], lists
