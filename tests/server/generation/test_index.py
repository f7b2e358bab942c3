"""The dense index finds what an exact scan finds, at each size it changes its kind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from server.generation.index import build_dense_index
from server.generation.open import DenseIndex, GenerationRefused, Manifest

DIMENSION = 32


def vectors(count: int) -> npt.NDArray[np.float32]:
    """Unit vectors around two hundred centres, as products gather around what they are."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((200, DIMENSION), dtype=np.float32)
    rows = centres[rng.integers(0, 200, count)] + 0.5 * rng.standard_normal(
        (count, DIMENSION), dtype=np.float32
    )
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def manifest(count: int, probes: int, dimension: int = DIMENSION) -> Manifest:
    return Manifest("gen-x", "b", 1, 1, count, dimension, 64, 1.0, probes)


@pytest.mark.parametrize(
    ("count", "kind"), [(1, "Flat"), (7, "Flat"), (1_000, "Flat"), (1_001, "SQ8"), (6_000, "IVF128,SQ8")]
)
def test_the_index_reaches_its_recall(count: int, kind: str, tmp_path: Path) -> None:
    faiss.omp_set_num_threads(1)
    rows, path = vectors(count), tmp_path / "faiss.index"
    report = build_dense_index(rows, path, recall_min=0.95)
    assert report.kind == kind
    assert report.recall_at_100 >= 0.95
    found, scores = DenseIndex(path, manifest(count, report.probes))(rows[count // 2], 10, None)
    assert found[0] == count // 2
    assert scores[0] == pytest.approx(1.0, abs=0.02)
    assert list(scores) == sorted(scores, reverse=True)
    assert len(found) == min(10, count)
    assert (found.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("count", [900, 3_000, 6_000])
def test_only_eligible_rows_are_found(count: int, tmp_path: Path) -> None:
    rows, path = vectors(count), tmp_path / "faiss.index"
    report = build_dense_index(rows, path, recall_min=0.95)
    eligible = np.arange(count) % 7 == 3
    bitmap = np.packbits(eligible, bitorder="little")
    found, _ = DenseIndex(path, manifest(count, report.probes))(rows[0], 50, bitmap)
    assert len(found) == 50
    assert eligible[found].all()


def test_a_search_takes_one_core_on_whatever_thread_it_runs(tmp_path: Path) -> None:
    rows, path = vectors(20), tmp_path / "faiss.index"
    build_dense_index(rows, path, recall_min=0.95)
    index = DenseIndex(path, manifest(20, 0))

    def team_after_a_search() -> int:
        faiss.omp_set_num_threads(2)
        index(rows[0], 5, None)
        return int(faiss.omp_get_max_threads())

    with ThreadPoolExecutor(1) as worker:
        assert worker.submit(team_after_a_search).result() == 1


def test_fewer_are_returned_where_fewer_exist(tmp_path: Path) -> None:
    rows, path = vectors(20), tmp_path / "faiss.index"
    build_dense_index(rows, path, recall_min=0.95)
    index = DenseIndex(path, manifest(20, 0))
    bitmap = np.zeros(3, np.uint8)
    assert len(index(rows[0], 5, bitmap)[0]) == 0
    bitmap[0] = 0b101
    assert sorted(index(rows[0], 5, bitmap)[0]) == [0, 2]
    assert len(index(rows[0], 100, None)[0]) == 20


@pytest.mark.parametrize(("count", "dimension"), [(21, DIMENSION), (20, DIMENSION + 1)])
def test_an_index_of_another_shape_is_refused(count: int, dimension: int, tmp_path: Path) -> None:
    path = tmp_path / "faiss.index"
    build_dense_index(vectors(20), path, recall_min=0.95)
    with pytest.raises(GenerationRefused, match=r"faiss\.index holds 20 vectors of 32"):
        DenseIndex(path, manifest(count, 0, dimension))
