"""bm25s: BM25 over sparse matrices, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer


class Finder:
    """An index of texts."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del vectors, folder, threads  # lexical, in memory, one thread
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25(method="lucene", backend="numba")
        self._index.index(self._tokens(texts), show_progress=False)

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the best texts, best first."""
        del vector
        found, _ = self._index.retrieve(self._tokens([query]), k=count, show_progress=False, n_threads=1)
        places: list[int] = found[0].tolist()
        return places

    def _tokens(self, texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=self._stemmer, show_progress=False)
