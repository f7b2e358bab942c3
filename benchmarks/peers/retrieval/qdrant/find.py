"""Qdrant's local mode, in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

COLLECTION = "products"


class Finder:
    """A collection of vectors."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del texts, folder, threads
        self._client = QdrantClient(":memory:")
        parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
        self._client.create_collection(COLLECTION, vectors_config=parameters)
        self._client.upload_collection(COLLECTION, vectors=vectors, ids=range(len(vectors)), batch_size=1024)

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the nearest vectors, nearest first."""
        del query
        answer = self._client.query_points(
            COLLECTION, query=vector, limit=count, with_payload=False, with_vectors=False
        )
        return [int(point.id) for point in answer.points]
