"""usearch: an HNSW index of vectors, in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from usearch.index import Index


class Finder:
    """An index of vectors."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del texts, folder
        self._index = Index(
            ndim=vectors.shape[1],
            metric="cos",
            dtype="i8",
            connectivity=32,
            expansion_add=128,
            expansion_search=128,
        )
        self._index.add(np.arange(len(vectors)), vectors, threads=threads)

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the nearest vectors, nearest first."""
        del query
        places: list[int] = self._index.search(vector, count, threads=1).keys.tolist()
        return places
