"""What a model is worth by itself: nDCG@10 over the judged products of each query.

Judged-only: the engine takes no part, so a model in any form (torch, ONNX, pruned, int8) is measured alike
and in a minute. Dense is the cosine of the two dense vectors, late the mean over query tokens of the best
product token, cross the score of the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.batches import Specials, by_length, pair_batch, pieces_of, text_batch
from training.data.folds import fold_of
from training.data.text import product_text
from training.measure import best_first, fast_ndcg
from training.models.networks import CrossEncoder, Encoder
from training.prepare import Prepared
from training.recipe import Recipe

Rows = Sequence[Sequence[int]]
"""Word pieces of texts, without special tokens."""

EncodeTexts = Callable[[Rows], tuple[NDArray[np.float32], list[NDArray[np.float32]]]]
"""Rows to dense vectors [rows, H] and token vectors, one [pieces, D] a row, special tokens excluded."""

ScorePairs = Callable[[Sequence[int], Rows], list[float]]
"""Pieces of a query and of its products to scores, in the order of the products."""

Quality = dict[str, dict[str, float]]
"""Set to query to nDCG@10."""


@dataclass(frozen=True)
class JudgedList:
    """One query and its judged products. gains: float64, in the order of product_ids; fold: of the query."""

    set: str
    query_id: str
    fold: int
    query: list[int]
    product_ids: list[str]
    gains: NDArray[np.float64]


@dataclass(frozen=True)
class JudgedProducts:
    """Word pieces of every judged product: (set, product id) to pieces, as each kind of model reads them."""

    dense: dict[tuple[str, str], list[int]]
    cross: dict[tuple[str, str], list[int]]


def judged_lists(recipe: Recipe, prepared: Prepared, split: str = "train") -> list[JudgedList]:
    """Queries of the judged sets with a relevant product. Raises: ValueError where there is none."""
    found = []
    for one in recipe.judged():
        known = prepared.products.get(one.name, {})
        queries = [
            query for query in prepared.of(one.name, split) if any(gain > 0 for gain in query.gains.values())
        ]
        rows = pieces_of(prepared.tokenizer, [query.text for query in queries], recipe.text.query_tokens_max)
        for query, row in zip(queries, rows, strict=True):
            keys = [key for key in query.gains if key in known]
            gains = np.array([query.gains[key] for key in keys], dtype=np.float64)
            if gains.any():
                fold = fold_of(one.name, query.query_id, recipe.folds, recipe.seed)
                found.append(JudgedList(one.name, query.query_id, fold, row, keys, gains))
    if not found:
        raise ValueError(f"no query of the split {split!r} has a relevant product: see prepared/data.json")
    return found


def judged_products(recipe: Recipe, prepared: Prepared, lists: Sequence[JudgedList]) -> JudgedProducts:
    """Tokenise the products of these lists once."""
    keys = list(dict.fromkeys((one.set, key) for one in lists for key in one.product_ids))
    products = [prepared.products[name][key] for name, key in keys]

    def cut(fields: Sequence[str], tokens_max: int) -> dict[tuple[str, str], list[int]]:
        texts = [product_text(product, fields) for product in products]
        return dict(zip(keys, pieces_of(prepared.tokenizer, texts, tokens_max), strict=True))

    return JudgedProducts(
        cut(recipe.text.dense_fields, recipe.text.dense_tokens_max),
        cut(recipe.text.cross_fields, recipe.text.cross_tokens_max),
    )


def torch_encoder(encoder: Encoder, specials: Specials) -> EncodeTexts:
    """An encoder in float32."""

    @torch.inference_mode()
    def run(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        dense, tokens = encoder(*text_batch(rows, specials))
        return dense.numpy(), tokens.numpy()

    return _in_batches(run)


def onnx_encoder(session: onnxruntime.InferenceSession, specials: Specials) -> EncodeTexts:
    """An encoder as exported."""

    def run(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        ids, mask = text_batch(rows, specials)
        found = session.run(["dense", "tokens"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return found[0], found[1]

    return _in_batches(run)


def torch_scorer(cross: CrossEncoder, specials: Specials) -> ScorePairs:
    """A cross-encoder in float32."""

    @torch.inference_mode()
    def run(query: Sequence[int], products: Rows) -> list[float]:
        scores: list[float] = cross(*pair_batch(query, products, specials)).tolist()
        return scores

    return run


def onnx_scorer(session: onnxruntime.InferenceSession, specials: Specials) -> ScorePairs:
    """A cross-encoder as exported, one pair at a time as served: the scales of int8 depend on a batch."""
    names = ("input_ids", "attention_mask", "token_type_ids")

    def run(query: Sequence[int], products: Rows) -> list[float]:
        scores = []
        for product in products:
            batch = pair_batch(query, [product], specials)
            inputs = {name: one.numpy() for name, one in zip(names, batch, strict=True)}
            scores.append(float(session.run(["score"], inputs)[0][0]))
        return scores

    return run


@dataclass(frozen=True)
class Vectors:
    """Vectors of the judged products. dense: float32 [H]; tokens: float32 [tokens, D]."""

    dense: dict[tuple[str, str], NDArray[np.float32]]
    tokens: dict[tuple[str, str], NDArray[np.float32]]


def product_vectors(
    recipe: Recipe, lists: Sequence[JudgedList], products: JudgedProducts, encoders: Sequence[EncodeTexts]
) -> list[Vectors]:
    """Encode the judged products, as an index would hold them (in float32): vectors of each encoder.

    encoders: one a fold, each for the products of that fold's queries; a single one encodes all of them.
    """
    found = []
    for fold, encode in enumerate(encoders):
        of_fold = [one for one in lists if len(encoders) == 1 or one.fold == fold]
        keys = list(dict.fromkeys((one.set, key) for one in of_fold for key in one.product_ids))
        if not keys:
            found.append(Vectors({}, {}))
            continue
        dense, tokens = encode([products.dense[key] for key in keys])
        cut = [one[: recipe.text.late_tokens_max] for one in tokens]
        found.append(Vectors(dict(zip(keys, dense, strict=True)), dict(zip(keys, cut, strict=True))))
    return found


def encoder_quality(
    lists: Sequence[JudgedList], products: Sequence[Vectors], encoders: Sequence[EncodeTexts]
) -> dict[str, Quality]:
    """nDCG@10 by the dense and by the late score: {"dense", "late"} to quality.

    products, encoders: one a fold, or a single one. Queries are encoded one at a time, as the service does:
    int8 scales depend on what else is in a batch.
    """
    found: dict[str, Quality] = {"dense": {}, "late": {}}
    for one in lists:
        fold = one.fold if len(encoders) > 1 else 0
        asked, asked_tokens = encoders[fold]([one.query])
        vectors, keys = products[fold], [(one.set, key) for key in one.product_ids]
        dense = np.stack([vectors.dense[key] for key in keys]) @ asked[0]
        late = np.array([_late(asked_tokens[0], vectors.tokens[key]) for key in keys])
        for name, scores in (("dense", dense), ("late", late)):
            value = fast_ndcg(one.gains, best_first(scores.astype(np.float64)), one.gains)
            found[name].setdefault(one.set, {})[one.query_id] = value
    return found


def cheap_scores(
    lists: Sequence[JudgedList], products: Sequence[Vectors], encoders: Sequence[EncodeTexts]
) -> list[NDArray[np.float64]]:
    """Dense and late score of each query's judged products, standardised and added: what the tiers below say.

    products, encoders: one a fold, or a single one. Queries are encoded one at a time, as the service does.
    """
    found = []
    for one in lists:
        fold = one.fold if len(encoders) > 1 else 0
        dense, tokens = encoders[fold]([one.query])
        known = products[fold]
        keys = [(one.set, key) for key in one.product_ids]
        found.append(
            _standardised(np.array([float(dense[0] @ known.dense[key]) for key in keys]))
            + _standardised(np.array([_late(tokens[0], known.tokens[key]) for key in keys]))
        )
    return found


def reranked_quality(
    lists: Sequence[JudgedList],
    cheap: Sequence[NDArray[np.float64]],
    products: JudgedProducts,
    score: ScorePairs,
    depths: Sequence[int],
) -> dict[int, Quality]:
    """Depth to nDCG@10 where a cross-encoder has a say in the order of the first `depth`; the rest stays.

    cheap: scores of each query's judged products (`cheap_scores`). They give the first order, and count as
    much as the cross-encoder in the second, since its tier's ranker sees both: a model is worth what it adds.
    """
    found: dict[int, Quality] = {depth: {} for depth in depths}
    for one, below in zip(lists, cheap, strict=True):
        order = best_first(below)
        head = order[: max(depths)]
        scores = np.array(score(one.query, [products.cross[one.set, one.product_ids[at]] for at in head]))
        for depth in depths:
            mixed = _standardised(scores[:depth]) + _standardised(below[head[:depth]])
            again = head[:depth][best_first(mixed)]
            value = fast_ndcg(one.gains, np.concatenate([again, order[depth:]]), one.gains)
            found[depth].setdefault(one.set, {})[one.query_id] = value
    return found


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = float(scores.std()) if len(scores) else 0.0
    return (scores - scores.mean()) / spread if spread > 1e-9 else np.zeros(len(scores))


def cross_quality(
    lists: Sequence[JudgedList], products: JudgedProducts, scorers: Sequence[ScorePairs]
) -> Quality:
    """nDCG@10 by a cross-encoder's score.

    scorers: one a fold, each of a model that saw nothing of that fold; a single one scores all queries.
    """
    found: Quality = {}
    for one in tqdm(lists, desc="judged queries", mininterval=10):
        score = scorers[one.fold if len(scorers) > 1 else 0]
        rows = [products.cross[one.set, key] for key in one.product_ids]
        scores = np.zeros(len(rows))
        for batch in by_length(rows, 16):
            scores[batch] = score(one.query, [rows[at] for at in batch])
        value = fast_ndcg(one.gains, best_first(scores), one.gains)
        found.setdefault(one.set, {})[one.query_id] = value
    return found


def quality_of(
    recipe: Recipe,
    lists: Sequence[JudgedList],
    products: JudgedProducts,
    models: Sequence[Encoder | CrossEncoder | onnxruntime.InferenceSession],
    specials: Specials,
) -> dict[str, Quality]:
    """nDCG@10 of a model of either kind in either form: "dense" and "late", or "cross", to quality.

    models: one a fold, each of which saw nothing of that fold; a single one is measured on all queries.
    """
    scorers = [_scorer(model, specials) for model in models if not _encodes(model)]
    if scorers:
        return {"cross": cross_quality(lists, products, scorers)}
    encoders = [text_encoder(model, specials) for model in models]
    return encoder_quality(lists, product_vectors(recipe, lists, products, encoders), encoders)


def text_encoder(
    model: Encoder | CrossEncoder | onnxruntime.InferenceSession, specials: Specials
) -> EncodeTexts:
    """An encoder in either form. Raises: TypeError for a cross-encoder."""
    if not _encodes(model):
        raise TypeError("a cross-encoder encodes no text alone")
    return torch_encoder(model, specials) if isinstance(model, Encoder) else onnx_encoder(model, specials)


def means(quality: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over queries of each set, four digits."""
    return {name: round(float(np.mean(list(values.values()))), 4) for name, values in quality.items()}


def share_kept(after: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]) -> float:
    """What is left of the mean nDCG@10: the mean over sets of the ratio of their means; 1: all of it."""
    ratios = [
        float(np.mean(list(after[name].values())) / max(1e-9, float(np.mean(list(before[name].values())))))
        for name in before
    ]
    return float(np.mean(ratios))


def _encodes(model: Encoder | CrossEncoder | onnxruntime.InferenceSession) -> bool:
    if isinstance(model, Encoder | CrossEncoder):
        return isinstance(model, Encoder)
    return any(one.name == "dense" for one in model.get_outputs())


def _scorer(model: CrossEncoder | onnxruntime.InferenceSession, specials: Specials) -> ScorePairs:
    return torch_scorer(model, specials) if isinstance(model, CrossEncoder) else onnx_scorer(model, specials)


def _late(asked: NDArray[np.float32], product: NDArray[np.float32]) -> float:
    if not len(asked) or not len(product):
        return 0.0
    return float((asked @ product.T).max(axis=1).mean())


def _in_batches(run: Callable[[Rows], tuple[NDArray[np.float32], NDArray[np.float32]]]) -> EncodeTexts:
    def encode(rows: Rows) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        dense: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
        tokens = list(dense)
        batches = list(by_length(rows, 32))
        for batch in tqdm(batches, desc="encoding", mininterval=10, disable=len(batches) < 8):
            vectors, pieces = run([rows[at] for at in batch])
            for place, at in enumerate(batch):
                dense[at] = vectors[place]
                tokens[at] = pieces[place, 1 : 1 + len(rows[at])]
        return np.stack(dense), tokens

    return encode
