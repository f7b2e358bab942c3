"""The dense index of a generation on a GPU, searched for several requests at once.

What a GPU index cannot do stays with the one on the processor: searches under a filter (FAISS has no
selectors there), more than 2,048 results or probed lists, and indexes of kinds that it has no kernel for. An
index whose copy does not find nearly what the one on the processor finds is not used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from server.generation.open import DenseIndex, Manifest
from server.gpu.batcher import Batcher, Closed

logger = logging.getLogger(__name__)

# The stubs of faiss know neither the GPU's classes nor keywords.
_FAISS: Any = faiss

BATCH_QUERIES_MAX = 64
# Limits of FAISS's kernels for choosing the best.
_RESULTS_MAX = 2_048
_PROBES_MAX = 2_048
# Share of the processor's best 100 that the copy has to find, mean over made-up queries.
AGREEMENT_MIN = 0.95
_AGREEMENT_QUERIES = 32
_AGREEMENT_RESULTS = 100
_SEED = 20_240_229
_MEASURED_RUNS = 5
_MEASURED_SIZES = (1, 8, BATCH_QUERIES_MAX)

_SCRATCH_BYTES = 256 * 2**20

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
Copy = Callable[[Any], Any]
"""A FAISS index on the processor -> the same on the device. Raises: RuntimeError for kinds unknown there."""


@dataclass(frozen=True)
class Searched:
    """An index on the device. seconds: of searches for 1, 8 and 64 queries."""

    index: Any
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Query:
    """One search. vector: float32 [D], L2-normalised. results: how many are wanted."""

    searched: Searched
    vector: npt.NDArray[np.float32]
    results: int


class IndexDevice:
    """Searches of any indexes on one device, as a ``server.gpu.batcher.Device`` of Query. One lane at a time:
    FAISS's GPU indexes must not be called from two threads.
    """

    def seconds(self, works: Sequence[Query]) -> float:
        """How long a batch of these takes on the idle device."""
        total = 0.0
        for searched in {id(work.searched): work.searched for work in works}.values():
            count = sum(work.searched is searched for work in works)
            place = next(place for place, size in enumerate(_MEASURED_SIZES) if count <= size)
            total += searched.seconds[place]
        return total

    def run(self, works: Sequence[Query]) -> list[Found]:
        """Rows and cosines of each search, best first."""
        found: list[Found | None] = [None] * len(works)
        for searched in {id(work.searched): work.searched for work in works}.values():
            places = [place for place, work in enumerate(works) if work.searched is searched]
            most = max(works[place].results for place in places)
            vectors = np.stack([works[place].vector for place in places])
            scores, rows = searched.index.search(vectors, most)
            for at, place in enumerate(places):
                wanted = works[place].results
                known = rows[at, :wanted] >= 0
                found[place] = (rows[at, :wanted][known], scores[at, :wanted][known])
        return [one for one in found if one is not None]


class OffloadedIndex:
    """A dense index that asks the device first, as a ``rankcore.DenseSearch``."""

    def __init__(self, host: DenseIndex, searched: Searched, batcher: Batcher[Query, Found]) -> None:
        self._host = host
        self._searched = searched
        self._batcher = batcher

    def __call__(
        self, query: npt.NDArray[np.float32], k: int, eligible: npt.NDArray[np.uint8] | None
    ) -> Found:
        """As ``DenseIndex``."""
        if eligible is None and k <= _RESULTS_MAX:
            try:
                # Without a deadline: the order so far is worth little without dense results.
                found = self._batcher.run(Query(self._searched, query.copy(), k), 1)
                if found is not None:
                    return found
            except Closed:
                pass
            except Exception:
                # The batcher has reported it; this request need not suffer.
                logger.debug("a search on the device failed", exc_info=True)
        return self._host(query, k, eligible)


def offloaded(host: DenseIndex, copy: Copy, batcher: Batcher[Query, Found]) -> OffloadedIndex | None:
    """The index on the device; None, with a log line, where it has to stay on the processor."""
    if host.probes > _PROBES_MAX:
        logger.info("the dense index stays on the processor: %d probed lists are too many", host.probes)
        return None
    try:
        index = copy(host.index)
        if host.probes:
            index.nprobe = host.probes
        agreement = _agreement(host, index)
        if agreement < AGREEMENT_MIN:
            logger.warning(
                "the dense index stays on the processor: its copy finds only %.3f of the same products",
                agreement,
            )
            return None
        searched = Searched(index, tuple(_measure(index, size) for size in _MEASURED_SIZES))
    except RuntimeError as error:
        logger.info("the dense index stays on the processor: %s", _first_line(error))
        return None
    logger.info("dense search runs on the device: %d products, agreement %.3f", index.ntotal, agreement)
    return OffloadedIndex(host, searched, batcher)


def open_offloaded(
    path: Path, manifest: Manifest, copy: Copy, batcher: Batcher[Query, Found]
) -> DenseIndex | OffloadedIndex:
    """Open a generation's dense index, on the device where it can be. Raises: GenerationRefused."""
    host = DenseIndex(path, manifest)
    return offloaded(host, copy, batcher) or host


def copy_to_gpu(device: int) -> Copy:
    """Copies to the GPU of this number; flat vectors and the centres of lists in 16 bits, codes as they are.

    Raises: RuntimeError where the installed FAISS has no GPU part.
    """
    if not hasattr(_FAISS, "StandardGpuResources") or _FAISS.get_num_gpus() <= device:
        raise RuntimeError("the installed faiss has no part for GPUs, or sees none: install faiss-gpu")
    resources = _FAISS.StandardGpuResources()
    # Its own default takes a gigabyte and a half, for batches far larger than ours.
    resources.setTempMemory(_SCRATCH_BYTES)
    options = _FAISS.GpuClonerOptions()
    # cuVS, where faiss was built with it, has no lists of 8-bit codes.
    options.use_cuvs = False
    options.useFloat16 = True
    options.useFloat16CoarseQuantizer = True

    def copy(index: Any) -> Any:
        return _FAISS.index_cpu_to_gpu(resources, device, index, options)

    return copy


def unit_vectors(count: int, dimension: int) -> npt.NDArray[np.float32]:
    """Made-up vectors of length 1, float32 [count, dimension]; always the same ones."""
    vectors = np.random.default_rng(_SEED).standard_normal((count, dimension), dtype=np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _agreement(host: DenseIndex, index: Any) -> float:
    """Share of the processor's results that the copy finds, mean over made-up queries."""
    results = min(_AGREEMENT_RESULTS, index.ntotal)
    vectors = unit_vectors(_AGREEMENT_QUERIES, index.d)
    _, found = index.search(vectors, results)
    shares = []
    for vector, rows in zip(vectors, found, strict=True):
        wanted = set(host(vector, results, None)[0].tolist())
        shares.append(len(wanted & set(rows.tolist())) / max(len(wanted), 1))
    return float(np.mean(shares))


def _measure(index: Any, queries: int) -> float:
    """Median seconds of a search for so many queries."""
    vectors = unit_vectors(queries, index.d)
    took = []
    for _ in range(_MEASURED_RUNS):
        began = time.perf_counter()
        index.search(vectors, min(200, index.ntotal))
        took.append(time.perf_counter() - began)
    return median(took)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
