"""tantivy by its Python binding: BM25 over one field."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tantivy


class Finder:
    """An index of texts."""

    def __init__(self, texts: list[str], vectors: np.ndarray, folder: Path, threads: int) -> None:
        del vectors
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("text", stored=False, tokenizer_name="en_stem")
        schema.add_unsigned_field("place", stored=True, indexed=False)
        self._index = tantivy.Index(schema.build(), path=str(folder))
        writer = self._index.writer(heap_size=256 * 2**20, num_threads=threads)
        for place, text in enumerate(texts):
            writer.add_document(tantivy.Document(text=text, place=place))
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def find(self, query: str, vector: np.ndarray, count: int) -> list[int]:
        """Places of the best texts, best first."""
        del vector
        # Words alone: what a shopper types must not be read as the query language.
        words = " ".join(re.findall(r"\w+", query))
        parsed = self._index.parse_query(words, ["text"])
        hits = self._searcher.search(parsed, count).hits
        return [int(self._searcher.doc(address)["place"][0]) for _, address in hits]
