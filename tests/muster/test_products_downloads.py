"""Public data sets: nothing half-done, nothing unchecked, and clear words without a network."""

from __future__ import annotations

import hashlib
import io
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.products import DownloadError, read_judgements, read_products
from muster.products.downloads import DataSet, data_sets, fetch

WANDS = {
    "product.csv": (
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features"
        "\trating_count\taverage_rating\treview_count\n"
        "1\tred chair\tChairs\tFurniture / Chairs\tsoft\tcolor:red\t3.0\t4.5\t1.0\n"
        "2\tlamp\tLamps\tLighting\t\t\t\t\t\n"
        "3\tnot judged\tLamps\tLighting\t\t\t\t\t\n"
    ),
    "query.csv": "query_id\tquery\tquery_class\n5\tchair\tChairs\n6\tlamp\tLamps\n",
    "label.csv": "id\tquery_id\tproduct_id\tlabel\n0\t5\t1\tExact\n1\t5\t2\tIrrelevant\n2\t6\t2\tPartial\n",
}


def serve(files: dict[str, bytes]) -> Callable[[str], IO[bytes]]:
    return lambda url: io.BytesIO(files[url.rsplit("/", 1)[1]])


def wands(files: dict[str, bytes]) -> DataSet:
    """The data set with the digests of these files."""
    real = data_sets()["wands"]
    fixed = [replace(f, sha256=hashlib.sha256(files[f.name]).hexdigest(), rows=0) for f in real.files]
    return replace(real, files=tuple(fixed))


@pytest.fixture
def files() -> dict[str, bytes]:
    return {name: text.encode() for name, text in WANDS.items()}


def test_the_table_of_sources_is_complete() -> None:
    known = data_sets()
    assert list(known) == ["esci", "wands"]
    for data_set in known.values():
        assert data_set.licence and data_set.citation and data_set.homepage.startswith("https://github.com/")
        for file in data_set.files:
            assert file.url.startswith("https://") and file.url.endswith(file.name)
            assert len(file.sha256) == 64 or file.rows


def test_wands_is_brought_into_musters_layout(tmp_path: Path, files: dict[str, bytes]) -> None:
    seen: list[tuple[str, int, int]] = []
    fetch(wands(files), tmp_path, opener=serve(files), progress=lambda *step: seen.append(step))
    products = list(read_products(tmp_path))
    assert [product.title for product in products] == ["red chair", "lamp"]
    assert dict(products[0].attributes) == {"color": "red"} and products[0].rating_count == 3
    judged = read_judgements(tmp_path, None)
    assert judged.gains == {"5": {"1": 1.0, "2": 0.0}, "6": {"2": 0.5}}
    assert 'licence = "MIT"' in (tmp_path / "SOURCE.toml").read_text()
    assert {name for name, _, _ in seen} == set(WANDS)


def test_esci_is_brought_into_musters_layout(tmp_path: Path) -> None:
    def table(rows: list[dict[str, object]]) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()

    def example(query: int, product: str, label: str, locale: str, split: str) -> dict[str, object]:
        return {
            "query": f"query {query}",
            "query_id": query,
            "product_id": product,
            "product_locale": locale,
            "esci_label": label,
            "split": split,
        }

    def product(name: str, locale: str) -> dict[str, object]:
        texts = {f"product_{field}": None for field in ("description", "brand", "color")}
        return (
            {"product_id": name, "product_title": f"title {name}", "product_bullet_point": "a\nb"}
            | texts
            | {"product_locale": locale}
        )

    files = {
        "shopping_queries_dataset_examples.parquet": table(
            [
                example(1, "A", "E", "us", "train"),
                example(1, "B", "S", "us", "train"),
                example(2, "A", "C", "us", "test"),
                example(3, "J", "E", "jp", "train"),
            ]
        ),
        "shopping_queries_dataset_products.parquet": table(
            [product("A", "us"), product("B", "us"), product("J", "jp"), product("Z", "us")]
        ),
    }
    real = data_sets()["esci"]
    fixed = tuple(replace(f, sha256=hashlib.sha256(files[f.name]).hexdigest(), bytes=0) for f in real.files)
    fetch(replace(real, files=fixed), tmp_path, opener=serve(files))
    assert [found.product_id for found in read_products(tmp_path)] == ["A", "B"]
    assert read_judgements(tmp_path, None).gains == {"1": {"A": 1.0, "B": 0.1}, "2": {"A": 0.01}}
    assert list(read_judgements(tmp_path, "test").queries) == ["2"]


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    fetch(wands(files), tmp_path, opener=serve(files))

    def no_network(url: str) -> IO[bytes]:
        raise AssertionError(f"{url} was fetched again")

    fetch(wands(files), tmp_path, opener=no_network)


def test_a_changed_file_is_refused_and_not_kept(tmp_path: Path, files: dict[str, bytes]) -> None:
    expected = wands(files)
    files["query.csv"] += b"7\tforged\t\n"
    with pytest.raises(DownloadError, match="not the expected one"):
        fetch(expected, tmp_path, opener=serve(files))
    assert not (tmp_path / "originals" / "query.csv").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_digest_that_the_project_does_not_declare_is_kept_and_compared(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    undeclared = replace(wands(files), files=tuple(replace(f, sha256="") for f in wands(files).files))
    fetch(undeclared, tmp_path, opener=serve(files))
    (tmp_path / "originals" / "query.csv").unlink()
    files["query.csv"] += b"7\tforged\t\n"
    with pytest.raises(DownloadError, match="not the expected one"):
        fetch(undeclared, tmp_path, opener=serve(files))


def test_a_short_file_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    sized = replace(wands(files), files=tuple(replace(f, bytes=10_000) for f in wands(files).files))
    with pytest.raises(DownloadError, match="of 10,000 bytes"):
        fetch(sized, tmp_path, opener=serve(files))


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    counted = replace(wands(files), files=tuple(replace(f, rows=9) for f in wands(files).files))
    with pytest.raises(DownloadError, match="has 3 rows, not 9"):
        fetch(counted, tmp_path, opener=serve(files))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (urllib.error.URLError("Name or service not known"), "the network cannot be reached"),
        (TimeoutError("timed out"), "the network cannot be reached"),
        (ConnectionResetError("reset"), "the network cannot be reached"),
        (urllib.error.HTTPError("u", 404, "Not Found", None, None), "answered 404"),  # type: ignore[arg-type]
    ],
)
def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, files: dict[str, bytes], error: Exception, words: str
) -> None:
    def broken(url: str) -> IO[bytes]:
        raise error

    with pytest.raises(DownloadError, match=words) as caught:
        fetch(wands(files), tmp_path, opener=broken)
    assert "by hand" in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="--out"):
        fetch(wands(files), tmp_path / "file" / "data", opener=serve(files))
