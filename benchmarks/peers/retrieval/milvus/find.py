"""Milvus Lite: one file, in process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pymilvus import MilvusClient, MilvusException

COLLECTION = "products"
BATCH = 2000


class Finder:
    """A collection of vectors."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del texts, threads
        self._client = MilvusClient(str(folder / "milvus.db"))
        self._search = {"metric_type": "COSINE", "params": {"ef": 128}}
        try:
            self._create(vectors, "HNSW", {"M": 32, "efConstruction": 128})
        except MilvusException:
            self._search = {"metric_type": "COSINE"}
            self._create(vectors, "AUTOINDEX", {})

    def _create(self, vectors: np.ndarray, kind: str, params: dict[str, int]) -> None:
        if self._client.has_collection(COLLECTION):
            self._client.drop_collection(COLLECTION)
        index = self._client.prepare_index_params()
        index.add_index(field_name="vector", index_type=kind, metric_type="COSINE", params=params)
        self._client.create_collection(
            COLLECTION, dimension=vectors.shape[1], metric_type="COSINE", index_params=index
        )
        for start in range(0, len(vectors), BATCH):
            rows = [
                {"id": start + at, "vector": row.tolist()}
                for at, row in enumerate(vectors[start : start + BATCH])
            ]
            self._client.insert(COLLECTION, rows)
        # Rows not yet flushed are compared one by one; what is loaded after the flush has its index.
        self._client.flush(COLLECTION)
        self._client.release_collection(COLLECTION)
        self._client.load_collection(COLLECTION)

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the nearest vectors, nearest first."""
        del query
        found = self._client.search(
            COLLECTION, data=[vector.tolist()], limit=count, search_params=self._search
        )
        return [int(one["id"]) for one in found[0]]
