"""Dense search on a device: what may go there, and that it finds what the processor's index finds.

The device is a copy of the index on the processor here; on a GPU, where there is one, a real one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from server.generation.index import VectorFile, build_dense_index
from server.generation.open import INDEX, DenseIndex, Manifest
from server.gpu import index as device_index
from server.gpu.batcher import Batcher
from server.gpu.index import (
    BATCH_QUERIES_MAX,
    Found,
    IndexDevice,
    OffloadedIndex,
    Query,
    copy_to_gpu,
    offloaded,
    open_offloaded,
)

DIMENSION = 32
PRODUCTS = 6_000
HAS_GPU = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


class Copied:
    """A copy of an index as a device would hold it; counts what it is asked."""

    def __init__(self, index: Any, *, wrong: bool = False) -> None:
        self._index = faiss.clone_index(index)
        self._wrong = wrong
        self.searched: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def search(self, vectors: npt.NDArray[np.float32], results: int) -> tuple[Any, Any]:
        self.searched.append(len(vectors))
        return self._index.search(-vectors if self._wrong else vectors, results)


def vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("index")
    vectors(PRODUCTS, 1).tofile(folder / "vectors.f32")
    file = VectorFile(folder / "vectors.f32", PRODUCTS, DIMENSION)
    report = build_dense_index(file, folder, recall_min=0.95, choice="faiss")
    assert report.probes > 0
    return folder / INDEX, Manifest("gen-x", "b", 1, 1, PRODUCTS, DIMENSION, 64, report)


@pytest.fixture
def batcher() -> Iterator[Batcher[Query, Found]]:
    made: Batcher[Query, Found] = Batcher(
        IndexDevice(), items_max=BATCH_QUERIES_MAX, clock=time.monotonic, lanes=1
    )
    yield made
    made.close()


def on_device(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found], copy: Any
) -> tuple[DenseIndex, OffloadedIndex]:
    found = open_offloaded(*stored, copy, batcher)
    assert isinstance(found, OffloadedIndex)
    return DenseIndex(*stored), found


def test_the_device_finds_what_the_processor_finds_for_any_number_of_callers(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found]
) -> None:
    host, device = on_device(stored, batcher, Copied)
    queries = vectors(200, 2)
    with ThreadPoolExecutor(8) as pool:
        sizes = [1 + 13 * (at % 9) for at in range(len(queries))]
        found = list(pool.map(lambda query, k: device(query, k, None), queries, sizes))
    for query, k, (rows, scores) in zip(queries, sizes, found, strict=True):
        wanted_rows, wanted_scores = host(query, k, None)
        np.testing.assert_array_equal(rows, wanted_rows)
        np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


def test_callers_that_wait_are_searched_for_together() -> None:
    copied = Copied(faiss.IndexFlatIP(DIMENSION))
    copied._index.add(vectors(50, 3))
    searched = device_index.Searched(copied, (0.001, 0.001, 0.001))
    other = device_index.Searched(copied, (0.001, 0.001, 0.001))
    works = [
        Query(one, vector, k)
        for one, vector, k in zip([searched, other, searched], vectors(3, 4), [3, 60, 5], strict=True)
    ]
    found = IndexDevice().run(works)
    assert copied.searched == [2, 1]
    # Fewer where there are fewer: 50 of 60.
    assert [len(rows) for rows, _ in found] == [3, 50, 5]
    assert IndexDevice().seconds(works) == pytest.approx(0.002)


def test_filters_and_long_lists_are_left_to_the_processor(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found]
) -> None:
    copies: list[Copied] = []

    def copy(index: Any) -> Copied:
        copies.append(Copied(index))
        return copies[-1]

    host, device = on_device(stored, batcher, copy)
    copies[0].searched.clear()
    query = vectors(1, 5)[0]
    eligible = np.zeros((PRODUCTS + 7) // 8, np.uint8)
    eligible[3] = 0b101
    rows, _ = device(query, 10, eligible)
    assert set(rows.tolist()) <= {24, 26}
    np.testing.assert_array_equal(device(query, 3_000, None)[0], host(query, 3_000, None)[0])
    assert copies[0].searched == []
    device(query, 10, None)
    assert copies[0].searched == [1]


def test_a_copy_that_finds_other_products_is_not_used(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found], caplog: pytest.LogCaptureFixture
) -> None:
    found = open_offloaded(*stored, lambda index: Copied(index, wrong=True), batcher)
    assert isinstance(found, DenseIndex)
    assert "its copy finds only 0.0" in caplog.text


def test_an_index_of_a_kind_that_the_device_does_not_know_stays(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found], caplog: pytest.LogCaptureFixture
) -> None:
    def copy(index: Any) -> Any:
        raise RuntimeError("This index type is not implemented on GPU.\nand a long trace")

    caplog.set_level(logging.INFO)
    assert isinstance(open_offloaded(*stored, copy, batcher), DenseIndex)
    assert caplog.messages == [
        "the dense index stays on the processor: This index type is not implemented on GPU."
    ]


def test_more_probed_lists_than_the_device_can_choose_stay(
    stored: tuple[Path, Manifest], batcher: Batcher[Query, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = DenseIndex(*stored)
    monkeypatch.setattr(device_index, "_PROBES_MAX", host.probes - 1)
    assert offloaded(host, Copied, batcher) is None


def test_after_a_failure_searches_go_on_on_the_processor(stored: tuple[Path, Manifest]) -> None:
    reported: list[Exception] = []
    batcher: Batcher[Query, Found] = Batcher(
        IndexDevice(), items_max=4, clock=time.monotonic, lanes=1, on_failure=reported.append
    )
    copies: list[Copied] = []

    def copy(index: Any) -> Copied:
        copies.append(Copied(index))
        return copies[-1]

    host, device = on_device(stored, batcher, copy)

    def lost(vectors: Any, results: int) -> Any:
        raise RuntimeError("CUDA error 700")

    copies[0].search = lost  # type: ignore[method-assign]
    for query in vectors(3, 6):
        np.testing.assert_array_equal(device(query, 20, None)[0], host(query, 20, None)[0])
    assert [str(error) for error in reported] == ["CUDA error 700"]
    batcher.close()


@pytest.mark.skipif(HAS_GPU, reason="faiss has a GPU part")
def test_a_faiss_without_a_gpu_part_says_what_to_install() -> None:
    with pytest.raises(RuntimeError, match="install faiss-gpu"):
        copy_to_gpu(0)


@pytest.mark.skipif(
    not HAS_GPU, reason="no GPU that faiss can use (faiss-gpu is not installed, or sees none)"
)
def test_on_a_gpu_the_index_agrees(stored: tuple[Path, Manifest], batcher: Batcher[Query, Found]) -> None:
    host, device = on_device(stored, batcher, copy_to_gpu(0))
    shares = []
    for query in vectors(50, 7):
        wanted = set(host(query, 100, None)[0].tolist())
        shares.append(len(wanted & set(device(query, 100, None)[0].tolist())) / 100)
    assert np.mean(shares) >= device_index.AGREEMENT_MIN
