"""Judged queries: gains, ratings, labels, splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.products import ProductFileError, read_judgements


def write(folder: Path, queries: list[dict[str, Any]], labels: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(queries), folder / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(labels), folder / "labels.parquet")
    return folder


QUERIES = [
    {"query_id": 1, "query": "tea", "split": "dev"},
    {"query_id": 2, "query": "mate", "split": "train"},
    {"query_id": 3, "query": "milk", "split": "dev"},
]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"gain": 0.1}, 0.1),
        ({"rating": 3}, 3.0),
        ({"label": "Substitute"}, 0.1),
        ({"gain": 1.0, "label": "I"}, 1.0),
    ],
)
def test_a_gain_comes_from_gain_rating_or_label(
    tmp_path: Path, values: dict[str, Any], expected: float
) -> None:
    write(tmp_path, QUERIES, [{"query_id": 1, "product_id": 77, **values}])
    assert read_judgements(tmp_path).gains["1"] == {"77": expected}


def test_only_the_split_asked_for_is_read(tmp_path: Path) -> None:
    labels = [{"query_id": q, "product_id": "P", "gain": float(q == 1)} for q in (1, 2, 3, 9)]
    write(tmp_path, QUERIES, labels)
    found = read_judgements(tmp_path, "dev")
    assert dict(found.queries) == {"1": "tea", "3": "milk"}
    assert set(found.gains) == {"1", "3"}
    assert found.scorable() == ["1"], "a query without a positive gain has no nDCG"
    assert len(read_judgements(tmp_path, None).queries) == 3


def test_other_files_may_be_named(tmp_path: Path) -> None:
    write(tmp_path, QUERIES, [{"query_id": 1, "product_id": "P", "gain": 1.0}])
    found = read_judgements(
        "nowhere", queries=tmp_path / "queries.parquet", labels=tmp_path / "labels.parquet"
    )
    assert found.gains["1"] == {"P": 1.0}


def test_named_files_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"query_id": 1, "query": "tea"}\n{"query_id": 2, "query": "mate"}\n')
    (tmp_path / "l.csv").write_text("query_id,product_id,gain,label\n1,P,0.5,\n2,P,,Exact\n")
    found = read_judgements(tmp_path, queries=tmp_path / "q.jsonl", labels=tmp_path / "l.csv")
    assert found.gains == {"1": {"P": 0.5}, "2": {"P": 1.0}}
    (tmp_path / "l.csv").write_text("query_id,product_id,gain\n1,P,0.5\n1,R,much\n")
    with pytest.raises(ProductFileError, match="'much' is not a gain") as caught:
        read_judgements(tmp_path, queries=tmp_path / "q.jsonl", labels=tmp_path / "l.csv")
    assert (caught.value.row, caught.value.column) == (2, "gain")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"gain": float("nan")}, "not a gain"),
        ({"gain": -1.0}, "not a gain"),
        ({"label": "Great"}, "no known label"),
        ({"other": 1}, "no known label"),
    ],
)
def test_a_faulty_label_is_told_with_its_row(tmp_path: Path, label: dict[str, Any], words: str) -> None:
    write(tmp_path, QUERIES, [{"query_id": 1, "product_id": "P", **label}])
    with pytest.raises(ProductFileError, match=words) as caught:
        read_judgements(tmp_path)
    assert caught.value.row == 1


def test_absent_damaged_and_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ProductFileError, match="no such file"):
        read_judgements(tmp_path)
    write(tmp_path, QUERIES, [{"query_id": 1, "product_id": "P", "gain": 1.0}])
    with pytest.raises(ProductFileError, match="splits: dev, train"):
        read_judgements(tmp_path, "test")
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(ProductFileError, match="not a complete Parquet file"):
        read_judgements(tmp_path)
    write(tmp_path, [{"query": "tea"}], [{"query_id": 1}])
    with pytest.raises(ProductFileError, match="no such column"):
        read_judgements(tmp_path)
    write(tmp_path, [{"query_id": 1, "query": "a"}, {"query_id": 1, "query": "b"}], [{"query_id": 1}])
    with pytest.raises(ProductFileError, match="two texts"):
        read_judgements(tmp_path)


@pytest.mark.skipif("MUSTER_DATA" not in os.environ, reason="MUSTER_DATA names no folder with real data sets")
@pytest.mark.parametrize(("name", "queries", "best"), [("esci", 30, 1.0), ("chorus", 22, 3.0)])
def test_the_real_sets_are_read(name: str, queries: int, best: float) -> None:
    folder = Path(os.environ["MUSTER_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"MUSTER_DATA has no {name}")
    found = read_judgements(folder, "dev")
    assert len(found.queries) == queries
    assert max(gain for gains in found.gains.values() for gain in gains.values()) == best
