"""Build the dense index of a generation with FAISS and measure what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

# Below these sizes a scan is faster than lists; the codes of a scan are kept exact while they are small.
_EXACT_MAX = 1_000
_SCAN_MAX = 5_000

_ADD_ROWS = 65_536
_TRAIN_ROWS_FOR_A_LIST = 64
_LISTS_MAX = 16_384
_PROBES_MIN = 8
# Past a quarter of the lists a search costs more than its recall is worth; the manifest tells what was
# reached.
_PROBES_SHARE_MAX = 4
_MEASURED_QUERIES = 128
_NOISE_TO_SIGNAL = 1.0
_SEED = 20_240_229


@dataclass(frozen=True)
class DenseIndexReport:
    """How the index came out. probes: 0 where it has no lists. recall_at_100: share of the exact 100
    found.
    """

    kind: str
    probes: int
    recall_at_100: float


def build_dense_index(vectors: npt.NDArray[np.float32], out: Path, *, recall_min: float) -> DenseIndexReport:
    """Index ``vectors`` for cosine and write the index to ``out``.

    vectors: float32 [n, D], rows L2-normalised, n >= 1; may be memory-mapped. recall_min: lists are probed
    until the measured recall@100 reaches it, or until a quarter of them are.
    """
    count, dimension = vectors.shape
    kind = _kind(count)
    index: Any = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(_SEED)
    if not index.is_trained:
        lists = getattr(index, "nlist", 256)
        rows = np.sort(rng.choice(count, min(count, lists * _TRAIN_ROWS_FOR_A_LIST), replace=False))
        index.train(np.ascontiguousarray(vectors[rows]))
    for start in range(0, count, _ADD_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + _ADD_ROWS]))

    queries = _queries(vectors, rng)
    exact = _exact(vectors, queries, min(100, count))
    probes = 0
    recall = 0.0
    if kind.startswith("IVF"):
        most = max(_PROBES_MIN, index.nlist // _PROBES_SHARE_MAX)
        probes = _PROBES_MIN
        while True:
            index.nprobe = probes
            recall = _recall(index, queries, exact)
            if recall >= recall_min or probes >= most:
                break
            probes = min(probes * 2, most)
    else:
        recall = _recall(index, queries, exact)
    faiss.write_index(index, str(out))
    return DenseIndexReport(kind=kind, probes=probes, recall_at_100=round(recall, 4))


def _kind(count: int) -> str:
    """The index factory string: exact, scanned in 8 bits, or lists of 8 bits (2 * sqrt(n) of them)."""
    if count <= _EXACT_MAX:
        return "Flat"
    if count <= _SCAN_MAX:
        return "SQ8"
    lists = min(_LISTS_MAX, 2 ** round(math.log2(2 * math.sqrt(count))))
    return f"IVF{lists},SQ8"


def _queries(vectors: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Products with as much noise as signal (cosine about 0.7), for a query is seldom a product's own
    text.
    """
    count, dimension = vectors.shape
    rows = np.sort(rng.choice(count, min(count, _MEASURED_QUERIES), replace=False))
    noise = rng.standard_normal((rows.size, dimension), dtype=np.float32) / math.sqrt(dimension)
    queries = np.asarray(vectors[rows], np.float32) + np.float32(_NOISE_TO_SIGNAL) * noise
    norms = np.linalg.norm(queries, axis=1, keepdims=True)
    return np.ascontiguousarray(queries / np.maximum(norms, 1e-12))


def _exact(
    vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int
) -> npt.NDArray[np.int64]:
    """Rows of the ``k`` nearest of each query by a full scan, int64 [n_queries, k], in no order."""
    best_scores = np.full((queries.shape[0], 0), -np.inf, np.float32)
    best_rows = np.zeros((queries.shape[0], 0), np.int64)
    for start in range(0, vectors.shape[0], _ADD_ROWS):
        scores = queries @ np.asarray(vectors[start : start + _ADD_ROWS]).T
        rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, rows], axis=1)
        keep = np.argpartition(-best_scores, k - 1, axis=1)[:, :k] if best_scores.shape[1] > k else None
        if keep is not None:
            best_scores = np.take_along_axis(best_scores, keep, axis=1)
            best_rows = np.take_along_axis(best_rows, keep, axis=1)
    return best_rows


def _recall(index: faiss.Index, queries: npt.NDArray[np.float32], exact: npt.NDArray[np.int64]) -> float:
    _, found = index.search(queries, exact.shape[1])
    shares = [
        len(set(got.tolist()) & set(want.tolist())) / exact.shape[1]
        for got, want in zip(found, exact, strict=True)
    ]
    return float(np.mean(shares))
