"""Choose how a generation finds the rows nearest to a query, by size, recall and measured time.

Three ways are known. ``scan``: all int8 rows, by the core; needs no file and finds all that eight bits
can tell apart. ``lists``: the core probes inverted lists over the same rows; FAISS finds the centroids.
``faiss``: an index of FAISS's own beside the rows, searched through Python. By itself a build weighs the
first two: those whose recall@100 against an exact scan of the float vectors reaches the wanted one are
timed query by query in turn, and the faster is taken. ``docs/performance.md`` has what was measured of
all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

import rankcore
from server.generation.open import INDEX, DenseIndexReport

Choice = Literal["auto", "scan", "lists", "faiss"]
Rows = npt.NDArray[np.int64]
Search = Callable[[npt.NDArray[np.float32], int], Rows]
"""Query float32 [D], k -> the rows found, best first."""

LIST_FILES = ("lists.u32", "lists.idx", "list_centroids.i8", "list_scales.f32")

# Up to this size lists cannot save that much, and a build need not try.
_SCAN_MAX = 8_000
# What the scan may take more than lists, in milliseconds: it finds more, under filters too.
_SCAN_FAVOUR_MS = 0.1

_BLOCK_ROWS = 32_768
_TRAIN_ROWS_FOR_A_LIST = 48
_TRAIN_ROUNDS = 10
_LISTS_MAX = 16_384
_PROBES_MIN = 4
# Past half of the lists a scan costs hardly more.
_PROBES_SHARE_MAX = 2
_MEASURED_QUERIES = 128
_MEASURED_WIDTH = 200
_NOISE_TO_SIGNAL = 1.0
_SEED = 20_240_229

# FAISS alone: exact while that is small, then 8 bits, then lists of 8 bits.
_FAISS_EXACT_MAX = 1_000
_FAISS_SCAN_MAX = 5_000
_FAISS_PROBES_MIN = 8


class VectorFile:
    """Dense vectors float32 [rows, D] at the end of a file, read block by block, so that they never take
    memory as a whole.
    """

    def __init__(self, path: Path, rows: int, dimension: int) -> None:
        """Raises: ValueError where the file is too small."""
        size, wanted = path.stat().st_size, rows * dimension * 4
        if size < wanted:
            raise ValueError(f"{path} has {size} bytes, {wanted} are needed")
        self.rows = rows
        self.dimension = dimension
        self._path = path
        self._offset = size - wanted

    def blocks(self, rows: int = _BLOCK_ROWS) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """First row and vectors of each block, in order."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for start in range(0, self.rows, rows):
                count = min(rows, self.rows - start)
                block = np.fromfile(file, np.float32, count * self.dimension)
                yield start, block.reshape(count, self.dimension)

    def take(self, rows: Rows) -> npt.NDArray[np.float32]:
        """The vectors of some rows, rising; float32 [n, D]."""
        taken = np.empty((rows.size, self.dimension), np.float32)
        for start, block in self.blocks():
            first, last = np.searchsorted(rows, [start, start + len(block)])
            taken[first:last] = block[rows[first:last] - start]
        return taken


def build_dense_index(
    vectors: VectorFile, folder: Path, *, recall_min: float, choice: Choice = "auto"
) -> DenseIndexReport:
    """Choose, measure, and leave in ``folder`` the files that the choice needs.

    vectors: rows L2-normalised, at least one. folder: of the generation; holds the int8 rows. recall_min:
    lists are probed until the measured recall@100 reaches it, or until half of them are. Raises:
    rankcore.GenerationError.
    """
    rng = np.random.default_rng(_SEED)
    queries = _queries(vectors, rng)
    exact = _exact(vectors, queries, min(100, vectors.rows))
    if choice == "faiss":
        return _build_faiss(vectors, folder, queries, exact, recall_min)
    with_lists = choice == "lists" or (choice == "auto" and vectors.rows > _SCAN_MAX)
    if with_lists:
        _write_lists(vectors, folder, rng)
    rows = rankcore.DenseRows(str(folder), vectors.rows, vectors.dimension)

    def search(probes: int) -> Search:
        return lambda query, k: rows.search(query, k, probes=probes)[0]

    scan = search(0)
    reports = {"scan": DenseIndexReport("scan", 0, _recall(scan, queries, exact))}
    searches = {"scan": scan}
    if with_lists:
        lists = np.memmap(folder / "list_scales.f32", np.float32, mode="r", offset=64).size
        probes, recall = _tune(
            lambda probes: _recall(search(probes), queries, exact), recall_min, _PROBES_MIN, lists
        )
        reports["lists"] = DenseIndexReport("lists", probes, recall)
        searches["lists"] = search(probes)
    times = _times_ms(searches, queries)
    timed = [
        DenseIndexReport(report.kind, report.probes, report.recall_at_100, times[kind])
        for kind, report in reports.items()
    ]
    taken = _choose(timed, recall_min) if choice == "auto" else next(r for r in timed if r.kind == choice)
    if with_lists and taken.kind != "lists":
        for name in LIST_FILES:
            (folder / name).unlink()
    others = tuple(report for report in timed if report is not taken)
    return DenseIndexReport(taken.kind, taken.probes, taken.recall_at_100, taken.median_ms, others)


def _choose(timed: list[DenseIndexReport], recall_min: float) -> DenseIndexReport:
    """The fastest that finds enough; where none does, the one that finds most."""
    enough = [report for report in timed if report.recall_at_100 >= recall_min]
    if not enough:
        return max(timed, key=lambda report: report.recall_at_100)

    def cost_ms(report: DenseIndexReport) -> float:
        return (report.median_ms or 0.0) - (_SCAN_FAVOUR_MS if report.kind == "scan" else 0.0)

    return min(enough, key=cost_ms)


def _tune(
    recall_of: Callable[[int], float], recall_min: float, probes_min: int, lists: int
) -> tuple[int, float]:
    """The fewest probes whose recall reaches the wanted one, to within an eighth; else the most allowed."""
    most = max(1, lists // _PROBES_SHARE_MAX)
    below, probes = 0, min(probes_min, most)
    while (recall := recall_of(probes)) < recall_min and probes < most:
        below, probes = probes, min(2 * probes, most)
    while recall >= recall_min and probes - below > max(1, probes // 8):
        middle = (below + probes) // 2
        if (found := recall_of(middle)) >= recall_min:
            probes, recall = middle, found
        else:
            below = middle
    return probes, recall


def _times_ms(searches: dict[str, Search], queries: npt.NDArray[np.float32]) -> dict[str, float]:
    """Median processor time of a search by each, query by query in turn, so that noise meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query in queries:
        for name, search in searches.items():
            began = time.thread_time_ns()
            search(query, _MEASURED_WIDTH)
            times[name].append((time.thread_time_ns() - began) / 1e6)
    return {name: round(float(np.median(taken)), 4) for name, taken in times.items()}


def list_count(rows: int) -> int:
    """Lists for so many rows: about twice the square root, a power of two."""
    return min(_LISTS_MAX, 1 << round(math.log2(2 * math.sqrt(rows))))


def _write_lists(vectors: VectorFile, folder: Path, rng: np.random.Generator) -> None:
    """Find centroids on a sample, put every row into the list of its nearest one, and write the lists."""
    lists = list_count(vectors.rows)
    sample = min(vectors.rows, lists * _TRAIN_ROWS_FOR_A_LIST)
    rows = np.sort(rng.choice(vectors.rows, sample, replace=False))
    means: Any = faiss.Kmeans(
        vectors.dimension,
        min(lists, sample),
        niter=_TRAIN_ROUNDS,
        spherical=True,
        seed=_SEED % 2**31,
        max_points_per_centroid=_TRAIN_ROWS_FOR_A_LIST,
        min_points_per_centroid=1,
    )
    means.train(vectors.take(rows))
    list_of = np.empty(vectors.rows, np.uint32)
    for start, block in vectors.blocks():
        _, nearest = means.index.search(block, 1)
        list_of[start : start + len(block)] = nearest[:, 0]
    rankcore.write_lists(str(folder), np.ascontiguousarray(means.centroids), list_of)


def faiss_factory(rows: int) -> str:
    """The factory string of a FAISS index alone: exact, scanned in 8 bits, or lists of 8 bits."""
    if rows <= _FAISS_EXACT_MAX:
        return "Flat"
    if rows <= _FAISS_SCAN_MAX:
        return "SQ8"
    return f"IVF{list_count(rows)},SQ8"


def _build_faiss(
    vectors: VectorFile,
    folder: Path,
    queries: npt.NDArray[np.float32],
    exact: Rows,
    recall_min: float,
) -> DenseIndexReport:
    factory = faiss_factory(vectors.rows)
    index: Any = faiss.index_factory(vectors.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = min(vectors.rows, getattr(index, "nlist", 256) * _TRAIN_ROWS_FOR_A_LIST)
        chosen = np.random.default_rng(_SEED).choice(vectors.rows, sample, replace=False)
        index.train(vectors.take(np.sort(chosen)))
    for _, block in vectors.blocks():
        index.add(block)

    def search(query: npt.NDArray[np.float32], k: int) -> Rows:
        found: Rows = index.search(query.reshape(1, -1), k)[1][0]
        return found

    def recall_of(probes: int) -> float:
        index.nprobe = probes
        return _recall(search, queries, exact)

    probes = 0
    if factory.startswith("IVF"):
        probes, recall = _tune(recall_of, recall_min, _FAISS_PROBES_MIN, index.nlist)
        index.nprobe = probes
    else:
        recall = _recall(search, queries, exact)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    [median_ms] = _times_ms({"faiss": search}, queries).values()
    faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(folder / INDEX))
    return DenseIndexReport(f"faiss:{factory}", probes, recall, median_ms)


def _queries(vectors: VectorFile, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Products with as much noise as signal (cosine about 0.7), for a query is seldom a product's own
    text.
    """
    rows = np.sort(rng.choice(vectors.rows, min(vectors.rows, _MEASURED_QUERIES), replace=False))
    noise = rng.standard_normal((rows.size, vectors.dimension), dtype=np.float32)
    queries = vectors.take(rows) + np.float32(_NOISE_TO_SIGNAL / math.sqrt(vectors.dimension)) * noise
    norms = np.linalg.norm(queries, axis=1, keepdims=True)
    return np.ascontiguousarray(queries / np.maximum(norms, 1e-12), np.float32)


def _exact(vectors: VectorFile, queries: npt.NDArray[np.float32], k: int) -> Rows:
    """Rows of the ``k`` nearest of each query by a full scan, int64 [n_queries, k], in no order."""
    best_scores = np.full((len(queries), 0), -np.inf, np.float32)
    best_rows = np.zeros((len(queries), 0), np.int64)
    for start, block in vectors.blocks():
        scores = queries @ block.T
        rows = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, rows], axis=1)
        if best_scores.shape[1] > k:
            keep = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, keep, axis=1)
            best_rows = np.take_along_axis(best_rows, keep, axis=1)
    return best_rows


def _recall(search: Search, queries: npt.NDArray[np.float32], exact: Rows) -> float:
    """Share of the exact rows that were found, mean over the queries."""
    wanted = exact.shape[1]
    shares = [
        np.intersect1d(search(query, wanted), rows).size / wanted
        for query, rows in zip(queries, exact, strict=True)
    ]
    return round(float(np.mean(shares)), 4)
