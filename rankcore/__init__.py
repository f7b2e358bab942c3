"""The ranking core: retrieval, re-ranking in chunks, a planner that prices time, one queue of work.

Written in Rust; bytes of ``muster.v1`` messages go in and out, and everything that takes time runs without
the interpreter lock. One ``Engine`` per process opens a bundle, opens or makes a ``Generation``, serves it,
and answers. A ``Front`` owns the public socket: it takes ranking calls from there to the engine and back, and
passes every other call on to the server behind it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankcore._native import (
    ANALYSER,
    BundleError,
    Cancel,
    Cancelled,
    DeadlineExceeded,
    DenseRows,
    Engine,
    Front,
    Generation,
    GenerationBuilder,
    GenerationError,
    InvalidRequest,
    Models,
    Network,
    NotReady,
    Overloaded,
    PackedTokens,
    RankError,
    Shoppers,
    cpu_features,
    forest_score,
    front_bounds_s,
    front_scopes,
    front_statuses,
    int8_limit,
    maxsim,
    maxsim_kernel,
    maxsim_reference,
    product_text,
    validate_apply,
    write_lists,
)

__all__ = [
    "ANALYSER",
    "BundleError",
    "Cancel",
    "Cancelled",
    "DeadlineExceeded",
    "DenseRows",
    "DenseSearch",
    "Engine",
    "Front",
    "Generation",
    "GenerationBuilder",
    "GenerationError",
    "InvalidRequest",
    "Models",
    "Network",
    "NotReady",
    "Overloaded",
    "PackedTokens",
    "PairScorer",
    "RankError",
    "Shoppers",
    "cpu_features",
    "forest_score",
    "front_bounds_s",
    "front_scopes",
    "front_statuses",
    "int8_limit",
    "maxsim",
    "maxsim_kernel",
    "maxsim_reference",
    "product_text",
    "runtime_library",
    "validate_apply",
    "write_lists",
]

DenseSearch: TypeAlias = Callable[
    [NDArray[np.float32], int, NDArray[np.uint8] | None], tuple[NDArray[np.int64], NDArray[np.float32]]
]
"""Finds the rows nearest to a query: ``(query float32 [D], L2-normalised; k; eligible bitmap or None)`` to
``(rows int64 [n], cosines float32 [n])``, best first, n at most k. Bit i % 8 of byte i // 8 of the bitmap
tells whether row i may be returned. Called from the engine's own threads, several at a time."""


PairScorer: TypeAlias = Callable[
    [NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], int | None], NDArray[np.float32] | None
]
"""Scores pairs of a query and a product: ``(ids int32 [n]; starts int32 [pairs + 1]; seconds int32 [pairs];
within_us or None)`` to raw logits float32 [pairs], or None where they would come later than ``within_us``
microseconds from now. Pair i is ``ids[starts[i]:starts[i + 1]]``, [CLS] query [SEP] product [SEP]; the first
``seconds[i]`` of them are the query's segment. Called from the engine's own threads, several at a time; what
it raises makes the engine score these pairs by itself."""


def runtime_library() -> str:
    """The path of the ``libonnxruntime.so`` that the ``onnxruntime`` package carries, without importing it.

    Raises: BundleError if the package, or the library in it, is not installed.
    """
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        found = sorted((Path(folder) / "capi").glob("libonnxruntime.so*"))
        if found:
            return str(found[-1])
    raise BundleError("the onnxruntime package is not installed, or carries no libonnxruntime.so")
