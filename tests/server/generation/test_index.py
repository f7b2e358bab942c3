"""What finds the nearest rows is chosen by measured recall and time, and does what was measured."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

import rankcore
from server.generation import index
from server.generation.index import LIST_FILES, Choice, VectorFile, build_dense_index
from server.generation.open import INDEX, DenseIndex, DenseIndexReport, GenerationRefused, Manifest

DIMENSION = 32


def vectors(count: int) -> npt.NDArray[np.float32]:
    """Unit vectors around two hundred centres, as products gather around what they are."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((200, DIMENSION), dtype=np.float32)
    rows = centres[rng.integers(0, 200, count)] + 0.5 * rng.standard_normal(
        (count, DIMENSION), dtype=np.float32
    )
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def write(path: Path, kind: str, values: npt.NDArray[np.int8] | npt.NDArray[np.float32]) -> None:
    """A file as the core lays it out: 64 bytes of header, then the values."""
    header = b"MUSTERG1" + kind.encode().ljust(16, b"\0")
    header += struct.pack("<IIQ", 1, values.itemsize, values.size)
    path.write_bytes(header.ljust(64, b"\0") + values.tobytes())


def built(folder: Path, rows: npt.NDArray[np.float32]) -> VectorFile:
    """What the core leaves of the vectors: the float ones to choose by, the int8 ones to serve."""
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    write(folder / "dense.i8", "dense", np.rint(rows / scales[:, None]).astype(np.int8))
    write(folder / "dense_scales.f32", "dense scales", scales)
    (folder / "dense.f32").write_bytes(rows.tobytes())
    return VectorFile(folder / "dense.f32", *rows.shape)


def manifest(count: int, probes: int, dimension: int = DIMENSION) -> Manifest:
    return Manifest("gen-x", "b", 1, 1, count, dimension, 64, DenseIndexReport("faiss:", probes, 1.0))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"dense.i8", "dense_scales.f32", "dense.f32"}


@pytest.mark.parametrize("count", [1, 7, 3_000])
def test_small_generations_are_scanned_and_need_no_file(count: int, tmp_path: Path) -> None:
    report = build_dense_index(built(tmp_path, vectors(count)), tmp_path, recall_min=0.95)
    assert (report.kind, report.probes, report.others) == ("scan", 0, ())
    assert report.recall_at_100 >= 0.97
    assert report.median_ms is not None
    assert files(tmp_path) == set()


@pytest.mark.parametrize("choice", ["scan", "lists", "faiss"])
def test_each_kind_reaches_its_recall_and_finds_the_rows(choice: Choice, tmp_path: Path) -> None:
    faiss.omp_set_num_threads(1)
    rows = vectors(6_000)
    report = build_dense_index(built(tmp_path, rows), tmp_path, recall_min=0.95, choice=choice)
    assert report.kind.partition(":")[0] == choice
    assert report.recall_at_100 >= 0.95
    assert (report.probes > 0) == (choice != "scan")
    if choice == "faiss":
        assert files(tmp_path) == {INDEX}
        found, scores = DenseIndex(tmp_path / INDEX, manifest(6_000, report.probes))(rows[3], 10, None)
    else:
        assert files(tmp_path) == (set(LIST_FILES) if choice == "lists" else set())
        dense = rankcore.DenseRows(str(tmp_path), *rows.shape)
        found, scores = dense.search(rows[3], 10, probes=report.probes)
    assert found[0] == 3
    assert scores[0] == pytest.approx(1.0, abs=0.02)
    assert list(scores) == sorted(scores, reverse=True)
    assert (len(found), found.dtype, scores.dtype) == (10, np.int64, np.float32)


@pytest.mark.parametrize("choice", ["scan", "lists", "faiss"])
def test_only_eligible_rows_are_found(choice: Choice, tmp_path: Path) -> None:
    rows = vectors(6_000)
    report = build_dense_index(built(tmp_path, rows), tmp_path, recall_min=0.95, choice=choice)
    eligible = np.arange(6_000) % 7 == 3
    bitmap = np.packbits(eligible, bitorder="little")
    if choice == "faiss":
        found, _ = DenseIndex(tmp_path / INDEX, manifest(6_000, report.probes))(rows[0], 50, bitmap)
    else:
        dense = rankcore.DenseRows(str(tmp_path), *rows.shape)
        found, _ = dense.search(rows[0], 50, probes=report.probes, eligible=bitmap)
        exact = np.flatnonzero(eligible)[np.argsort(-(rows[eligible] @ rows[0]))[:50]]
        assert np.intersect1d(found, exact).size >= 47
    assert len(found) == 50
    assert eligible[found].all()


def test_a_build_takes_the_faster_of_what_finds_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SCAN_MAX", 500)
    report = build_dense_index(built(tmp_path, vectors(6_000)), tmp_path, recall_min=0.95)
    measured = {one.kind: one for one in (report, *report.others)}
    assert set(measured) == {"scan", "lists"}
    assert files(tmp_path) == (set(LIST_FILES) if report.kind == "lists" else set())
    scan, lists = (measured[kind].median_ms or 0.0 for kind in ("scan", "lists"))
    assert (report.kind == "scan") == (scan - 0.1 <= lists)


@pytest.mark.parametrize(
    ("scan", "lists", "taken"),
    [
        ((1.0, 1.0), (0.99, 0.5), "lists"),
        ((1.0, 1.0), (0.97, 0.5), "scan"),  # not enough is found
        ((1.0, 1.0), (0.99, 0.95), "scan"),  # too little is gained
        ((0.96, 1.0), (0.97, 0.5), "lists"),  # neither finds enough: the one that finds more
    ],
)
def test_the_choice_weighs_recall_before_time(
    scan: tuple[float, float], lists: tuple[float, float], taken: str
) -> None:
    timed = [DenseIndexReport("scan", 0, *scan), DenseIndexReport("lists", 8, *lists)]
    assert index._choose(timed, 0.98).kind == taken


def test_probes_are_as_few_as_the_recall_allows() -> None:
    asked: list[int] = []

    def recall_of(probes: int) -> float:
        asked.append(probes)
        return min(1.0, probes / 100)

    probes, recall = index._tune(recall_of, 0.5, 4, 1_000)
    assert recall >= 0.5
    assert 50 <= probes <= 57
    assert len(asked) < 12
    assert index._tune(recall_of, 0.5, 4, 64) == (32, 0.32), "half of the lists at most"


def test_vectors_are_read_block_by_block_as_they_were_written(tmp_path: Path) -> None:
    rows = vectors(100)
    path = tmp_path / "dense.f32"
    path.write_bytes(b"a header" + rows.tobytes())
    file = VectorFile(path, 100, DIMENSION)
    starts, blocks = zip(*file.blocks(30), strict=True)
    assert starts == (0, 30, 60, 90)
    assert np.array_equal(np.concatenate(blocks), rows)
    chosen = np.array([0, 29, 30, 99])
    assert np.array_equal(file.take(chosen), rows[chosen])
    with pytest.raises(ValueError, match=r"12808 bytes, 12928 are needed"):
        VectorFile(path, 101, DIMENSION)


def test_a_search_takes_one_core_on_whatever_thread_it_runs(tmp_path: Path) -> None:
    rows = vectors(20)
    build_dense_index(built(tmp_path, rows), tmp_path, recall_min=0.95, choice="faiss")
    dense = DenseIndex(tmp_path / INDEX, manifest(20, 0))

    def team_after_a_search() -> int:
        faiss.omp_set_num_threads(2)
        dense(rows[0], 5, None)
        return int(faiss.omp_get_max_threads())

    with ThreadPoolExecutor(1) as worker:
        assert worker.submit(team_after_a_search).result() == 1


def test_fewer_are_returned_where_fewer_exist(tmp_path: Path) -> None:
    rows = vectors(20)
    build_dense_index(built(tmp_path, rows), tmp_path, recall_min=0.95, choice="faiss")
    external = DenseIndex(tmp_path / INDEX, manifest(20, 0))
    own = rankcore.DenseRows(str(tmp_path), 20, DIMENSION)
    bitmap = np.zeros(3, np.uint8)
    for search in (external, lambda query, k, bits: own.search(query, k, eligible=bits)):
        bitmap[0] = 0
        assert len(search(rows[0], 5, bitmap)[0]) == 0
        bitmap[0] = 0b101
        assert sorted(search(rows[0], 5, bitmap)[0]) == [0, 2]
        assert len(search(rows[0], 100, None)[0]) == 20


@pytest.mark.parametrize(("count", "dimension"), [(21, DIMENSION), (20, DIMENSION + 1)])
def test_an_index_of_another_shape_is_refused(count: int, dimension: int, tmp_path: Path) -> None:
    build_dense_index(built(tmp_path, vectors(20)), tmp_path, recall_min=0.95, choice="faiss")
    with pytest.raises(GenerationRefused, match=r"faiss\.index holds 20 vectors of 32"):
        DenseIndex(tmp_path / INDEX, manifest(count, 0, dimension))
    with pytest.raises(rankcore.GenerationError, match=r"dense\.i8"):
        rankcore.DenseRows(str(tmp_path), count, dimension)


def test_lists_are_asked_for_only_where_there_are_some(tmp_path: Path) -> None:
    rows = vectors(20)
    built(tmp_path, rows)
    dense = rankcore.DenseRows(str(tmp_path), 20, DIMENSION)
    with pytest.raises(rankcore.GenerationError, match="no lists"):
        dense.search(rows[0], 5, probes=1)
    with pytest.raises(rankcore.GenerationError, match="31 dimensions"):
        dense.search(rows[0][:31].copy(), 5)
    with pytest.raises(rankcore.GenerationError, match="list 7 of 2"):
        rankcore.write_lists(str(tmp_path), rows[:2].copy(), np.full(20, 7, np.uint32))
