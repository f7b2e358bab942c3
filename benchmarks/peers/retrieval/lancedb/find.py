"""LanceDB: full text and vectors, fused."""

from __future__ import annotations

import re
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.rerankers import RRFReranker


class Finder:
    """A table of texts and vectors."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del threads
        width = vectors.shape[1]
        flat = pa.array(vectors.astype(np.float32).reshape(-1))
        table = pa.table(
            {
                "place": pa.array(range(len(texts)), pa.int64()),
                "text": pa.array(texts),
                "vector": pa.FixedSizeListArray.from_arrays(flat, width),
            }
        )
        self._table = lancedb.connect(str(folder)).create_table("products", table)
        self._table.create_fts_index("text", stem=True, remove_stop_words=True)
        self._table.create_index(
            metric="cosine", vector_column_name="vector", num_partitions=128, num_sub_vectors=width // 8
        )
        self._fuse = RRFReranker()

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the best products, best first."""
        words = " ".join(re.findall(r"\w+", query))
        search = self._table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
        found = (
            search.vector(vector)
            .text(words)
            .nprobes(20)
            .refine_factor(10)
            .rerank(self._fuse)
            .limit(count)
            .select(["place"])
            .to_arrow()
        )
        places: list[int] = found["place"].to_pylist()
        return places[:count]
