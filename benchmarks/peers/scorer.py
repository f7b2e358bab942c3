"""The student through ONNX Runtime, as a team would serve it without a framework of its own.

Read by the interpreters of several peers: it needs numpy, onnxruntime and tokenizers, and nothing of Muster.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BUCKETS = 3
"""Parts that the pairs of a request are cut into by length: less padding against more calls."""


class OnnxScorer:
    """Scores of (query, text) pairs, higher is better.

    model: folder with `onnx/model_int8.onnx` and `tokenizer.json`. threads: of ONNX Runtime, for one call.
    """

    def __init__(self, model: Path, *, threads: int, buckets: int = BUCKETS) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that spins while it waits takes the core from whoever reads the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(model / "onnx" / "model_int8.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._buckets = buckets

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Scores of one query's texts, in their order."""
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Scores of pairs, in their order; pairs of like length are run together."""
        if not pairs:
            return []
        encoded = self._tokenizer.encode_batch(list(pairs))
        lengths = np.array([len(one.ids) for one in encoded])
        scores = np.empty(len(pairs), dtype=np.float32)
        for part in np.array_split(np.argsort(lengths, kind="stable"), min(self._buckets, len(pairs))):
            inputs = self._padded([encoded[at] for at in part], int(lengths[part].max()))
            scores[part] = self._session.run(["score"], inputs)[0]
        found: list[float] = scores.tolist()
        return found

    @staticmethod
    def _padded(encoded: Sequence[Any], length: int) -> dict[str, np.ndarray]:
        shape = (len(encoded), length)
        names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        made = {name: np.zeros(shape, dtype=np.int64) for name in names}
        for row, one in enumerate(encoded):
            for name, attribute in names.items():
                values = getattr(one, attribute)
                made[name][row, : len(values)] = values
        return made
