"""Baselines: what well-known libraries reach with their defaults, to hold every tier against.

Random order; BM25 (bm25s); the cosine of the pretrained encoder's mean-pooled vectors, untrained; and the
reciprocal rank fusion of the two (Cormack et al. 2009), each list 200 deep. All read the same text: title,
brand, selling points and description, which the encoder cuts at 256 tokens. The engine takes no part.

Writes `baselines/report.json`, and `baselines/fusion.json`, the fusion's nDCG@10 query by query.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.v1 import catalogue_pb2
from training.data.batches import by_length
from training.data.text import product_text
from training.data.whole_files import write_report
from training.measure import best_first, estimate, fast_ndcg, random_ndcg
from training.models.hub import open_pretrained
from training.prepare import JudgedQuery, load_prepared
from training.recipe import Recipe, stage_arguments
from training.signals import SETTINGS, Measured, labelled

FOLDER = "baselines"
RANKINGS = ("bm25", "encoder", "fusion")
FIELDS = ("title", "brand", "bullets", "description")
TOKENS_MAX = 256
RRF_K = 60
RETRIEVED = 200


class Words:
    """BM25 of bm25s, as it comes: Lucene's variant, k1 1.5, b 0.75, English stop words, no stemming."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._count = len(texts)
        self._index = bm25s.BM25()
        self._index.index(_words(texts), show_progress=False)

    def scores(self, query: str) -> NDArray[np.float64]:
        """Of every text, float64 [texts]; 0 where no word of the query is known."""
        words = [word for word in _words([query])[0] if word in self._index.vocab_dict]
        if not words:
            return np.zeros(self._count)
        return np.asarray(self._index.get_scores(words), dtype=np.float64)


def _words(texts: Sequence[str]) -> list[list[str]]:
    found: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", return_ids=False, show_progress=False
    )
    return found


class Vectors:
    """The pretrained encoder, mean-pooled and L2-normalised."""

    def __init__(self, name: str) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model, self._tokenizer = open_pretrained(name)
        self._model = model.to(self._device)
        config: Any = model.config
        self._width = int(config.hidden_size)
        self._tokens_max = min(TOKENS_MAX, getattr(config, "max_position_embeddings", 0) or TOKENS_MAX)

    @torch.inference_mode()
    def of(self, texts: Sequence[str], title: str) -> NDArray[np.float32]:
        """float32 [texts, H], rows of length 1."""
        rows = self._tokenizer(list(texts), truncation=True, max_length=self._tokens_max)["input_ids"]
        vectors = np.empty((len(rows), self._width), dtype=np.float32)
        with tqdm(total=len(rows), desc=title, mininterval=5) as bar:
            for batch in by_length(rows, 32):
                padded = self._tokenizer.pad({"input_ids": [rows[at] for at in batch]}, return_tensors="pt")
                inputs = {key: value.to(self._device) for key, value in padded.items()}
                states = self._model(**inputs).last_hidden_state
                mask = inputs["attention_mask"][:, :, None].to(states.dtype)
                mean = (states * mask).sum(1) / mask.sum(1)
                vectors[batch] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
                bar.update(len(batch))
        return vectors


def fused(scores: Sequence[NDArray[np.float64]], retrieved: int) -> NDArray[np.float64]:
    """Reciprocal rank fusion, float64 [n]. scores: each [n]; what scores 0 or less was not retrieved."""
    total = np.zeros(len(scores[0]))
    for values in scores:
        ranks = np.empty(len(values))
        ranks[best_first(values)] = np.arange(1, len(values) + 1)
        total += np.where((values > 0) & (ranks <= retrieved), 1.0 / (RRF_K + ranks), 0.0)
    return total


def measure_baselines(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Run the stage. Returns what report.json says."""
    prepared = load_prepared(run)
    vectors = Vectors(recipe.pretrained)
    found: dict[str, Measured] = {ranking: {setting: {} for setting in SETTINGS} for ranking in RANKINGS}
    random: dict[str, float] = {}
    for name, asked in labelled(recipe, prepared):
        texts = [product_text(product, FIELDS) for product in asked.products]
        words = Words(texts)
        of_products = vectors.of(texts, f"products, {name}")
        of_queries = vectors.of([query.text for query in asked.queries], f"queries, {name}")
        for query, vector in zip(asked.queries, of_queries, strict=True):
            scores = [words.scores(query.text), (of_products @ vector).astype(np.float64)]
            for setting, values in _by_setting(asked.products, query, scores).items():
                for ranking, value in zip(RANKINGS, values, strict=True):
                    found[ranking][setting].setdefault(name, {})[query.query_id] = value
        gains = {query.query_id: query.gains for query in asked.queries}
        random[name] = round(float(np.mean(list(random_ndcg(gains, seed=recipe.seed).values()))), 4)
    report = {
        "text": list(FIELDS),
        "tokens_max": TOKENS_MAX,
        "random_judged": random,
        "rankings": {
            ranking: {
                setting: {
                    name: estimate(values, seed=recipe.seed, rounds=recipe.plans.bootstrap).rounded()
                    for name, values in sets.items()
                }
                for setting, sets in measured.items()
            }
            for ranking, measured in found.items()
        },
    }
    out = run / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    write_report(out / "fusion.json", found["fusion"])
    write_report(out / "report.json", report)
    return report


def _by_setting(
    products: Sequence[catalogue_pb2.Product],
    query: JudgedQuery,
    scores: Sequence[NDArray[np.float64]],
) -> Mapping[str, list[float]]:
    """Setting to the nDCG@10 of each of RANKINGS."""
    gains = np.array([query.gains.get(product.product_id, 0.0) for product in products])
    ideal = np.array(list(query.gains.values()))
    judged = np.array([at for at, one in enumerate(products) if one.product_id in query.gains])
    found = {}
    for setting in SETTINGS:
        rows = judged if setting == "judged" else np.arange(len(products))
        shown = [values[rows] for values in scores]
        shown.append(fused(shown, RETRIEVED))
        found[setting] = [fast_ndcg(gains[rows], best_first(values), ideal) for values in shown]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("What well-known libraries reach with their defaults.", argv)
    measure_baselines(arguments.recipe, arguments.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
