"""Product files: what is read, and how each kind of damage is told."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.products import (
    ColumnMapError,
    ProductFileError,
    product_file,
    read_products,
    read_rows,
    rows_expected,
)
from muster.v1 import catalogue_pb2


def read(path: Path, mapping: Any = None) -> list[catalogue_pb2.Product]:
    return list(read_products(path, mapping))


def fault(path: Path, mapping: Any = None) -> ProductFileError:
    with pytest.raises(ProductFileError) as caught:
        read(path, mapping)
    assert str(path) in str(caught.value)
    assert caught.value.action
    return caught.value


def write_parquet(path: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    names = list(rows[0])
    columns = [pa.array([row[name] for row in rows], types.get(name)) for name in names]
    pq.write_table(pa.table(columns, names=names), path)
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_parquet_is_read_in_order_across_batches(tmp_path: Path) -> None:
    rows = [
        {"product_id": f"P{i}", "title": f"tea {i}", "price": None if i % 2 else i / 4} for i in range(5_000)
    ]
    products = read(write_parquet(tmp_path / "products.parquet", rows))
    assert [product.product_id for product in products] == [row["product_id"] for row in rows]
    assert products[4].price == 1.0 and not products[5].HasField("price")


def test_the_map_for_chorus_reads_cents_and_prefixed_attributes(tmp_path: Path) -> None:
    row = {
        "product_id": 1402,
        "title": "HP 80",
        "description": None,
        "supplier": "HP",
        "price_cents": 32195,
        "attributes": '{"t_type": "Original", "n_width": 114.3, "n_depth": 264.0, "b_colour": true}',
    }
    (product,) = read(write_parquet(tmp_path / "products.parquet", [row]))
    assert (product.product_id, product.brand, product.price) == ("1402", "HP", 321.95)
    assert dict(product.attributes) == {
        "type": "Original",
        "width": "114.3",
        "depth": "264",
        "colour": "true",
    }


def test_the_map_for_esci_reads_lists_and_lines(tmp_path: Path) -> None:
    row = {
        "product_id": "B1",
        "title": "Phone",
        "description": "",
        "bullet_points": "one\ntwo\n",
        "brand": None,
        "color": "Black",
        "category": ["Phones", "Cell Phones"],
        "price": None,
        "rating": 4.5,
        "rating_count": 9904,
    }
    (product,) = read(write_parquet(tmp_path / "p.parquet", [row], price=pa.float64(), brand=pa.string()))
    assert list(product.bullets) == ["one", "two"] and list(product.category) == ["Phones", "Cell Phones"]
    assert dict(product.attributes) == {"color": "Black"} and product.rating_count == 9904


def test_the_map_for_wands_reads_tabs_and_pairs(tmp_path: Path) -> None:
    header = (
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features"
    )
    text = f"{header}\trating_count\taverage_rating\treview_count\n"
    text += '7\tsolid "wood" bed\tBeds\tFurniture / Beds\tlong, text\tcolor : oak|width: 48\t15.0\t4.5\t3.0\n'
    path = write(tmp_path / "product.csv", text.replace('"wood"', "wood"))
    (product,) = read(path)
    assert list(product.category) == ["Furniture", "Beds"] and product.rating_count == 15
    assert dict(product.attributes) == {"color": "oak", "width": "48"}


def test_a_beir_corpus_is_read_from_its_folder(tmp_path: Path) -> None:
    lines = [
        {"_id": "d1", "title": "", "text": "first", "metadata": {}},
        {"_id": "d2", "title": "t", "text": ""},
    ]
    write(tmp_path / "corpus.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    products = read(tmp_path)
    assert [(product.product_id, product.title) for product in products] == [("d1", "first"), ("d2", "t")]


def test_csv_is_read_with_quotes_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = (
        '\ufeffproduct_id,title,bullets,category,attributes\r\n1,"a, ""b""","x\ny",A > B,"{""k"": 1}"\r\n\r\n'
    )
    (product,) = read(write(tmp_path / "p.csv", text))
    assert (
        product.title == 'a, "b"'
        and list(product.bullets) == ["x", "y"]
        and list(product.category) == ["A", "B"]
    )
    assert dict(product.attributes) == {"k": "1"}


def test_a_map_of_ones_own_is_used(tmp_path: Path) -> None:
    write(tmp_path / "map.toml", 'delimiter = ";"\n[fields]\nproduct_id = "sku"\ntitle = "name"\n')
    (product,) = read(write(tmp_path / "p.csv", "sku;name\n1;tea\n"), tmp_path / "map.toml")
    assert product.title == "tea"
    with pytest.raises(ColumnMapError):
        read(tmp_path / "p.csv", "unheard")


def test_jsonl_may_leave_unknown_values_out(tmp_path: Path) -> None:
    text = '{"product_id": "1", "title": "tea", "price": 2}\n\n{"product_id": "2", "title": "mate"}\n'
    products = read(write(tmp_path / "p.jsonl", text))
    assert products[0].price == 2 and not products[1].HasField("price")


@pytest.mark.parametrize(
    ("name", "content", "row", "column", "words"),
    [
        ("p.csv", "product_id,title,price\n1,tea,1\n2,mate,NaN\n", 2, "price", "NaN"),
        ("p.csv", "product_id,title,price\n1,tea,-1\n", 1, "price", "negative"),
        ("p.csv", b"product_id,title\n1,tea\n2,caf\xe9\n", 2, None, "broken UTF-8"),
        ("p.csv", "product_id,title\n1,tea\n1,mate\n", 2, "product_id", "already used in row 1"),
        ("p.csv", "product_id,title,price\n1,tea,1\n2,ma", 2, None, "2 fields, the header has 3"),
        ("p.csv", 'product_id,title\n1,tea\n2,"ma', 2, None, "not valid CSV"),
        ("p.csv", 'product_id,title\n1,"a"b\n', 1, None, "not valid CSV"),
        ("p.csv", "product_id,name\n1,tea\n", None, "title", "needs this column"),
        ("p.csv", "product_id,title,title\n1,a,b\n", None, "title", "two columns"),
        ("p.csv", "", None, None, "empty"),
        ("p.csv", "product_id,title\n", None, None, "no products"),
        ("p.csv", "product_id,title\n1,\n", 1, "title", "title is empty"),
        (
            "p.jsonl",
            '{"product_id": "1", "title": "tea"}\n{"product_id": "2", "ti',
            2,
            None,
            "not valid JSON",
        ),
        ("p.jsonl", '{"product_id": "1", "title": "tea", "price": NaN}\n', 1, "price", "NaN"),
        ("p.jsonl", '{"product_id": "1", "title": "tea"}\n[1]\n', 2, None, "not a JSON object"),
        ("p.jsonl", b'{"product_id": "1", "title": "\xff"}\n', 1, None, "broken UTF-8"),
        ("p.jsonl", '{"product_id": "1", "title": "\\ud800"}\n', 1, "title", "surrogate"),
        (
            "p.jsonl",
            '{"product_id": "1", "title": "t", "price": 1' + "0" * 5000 + "}\n",
            1,
            None,
            "not usable",
        ),
        ("p.jsonl", '{"product_id": "1", "a": ' + "[" * 100_000 + "\n", 1, None, "JSON"),
        ("p.jsonl", '{"title": "tea"}\n', None, "product_id", "needs this column"),
        ("p.jsonl", "", None, None, "no products"),
        ("p.parquet", b"PAR1 and then nothing", None, None, "not a complete Parquet file"),
        ("p.parquet", b"", None, None, "not a complete Parquet file"),
    ],
)
def test_damage_is_told_with_row_and_column(
    tmp_path: Path, name: str, content: str | bytes, row: int | None, column: str | None, words: str
) -> None:
    found = fault(write(tmp_path / name, content))
    assert (found.row, found.column) == (row, column)
    assert words in found.problem
    assert row is None or f"row {row}" in str(found)


ROWS_AS_TEXT = {
    "p.csv": "product_id,title,locale\n1,tea,us\n1,thé,fr\n2,mate,us\n",
    "p.jsonl": "\n".join(
        json.dumps(dict(zip(("product_id", "title", "locale"), row, strict=True)))
        for row in (("1", "tea", "us"), ("1", "thé", "fr"), ("2", "mate", "us"))
    ),
}


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_a_condition_passes_rows_over_before_they_count(tmp_path: Path, name: str) -> None:
    if name in ROWS_AS_TEXT:
        path = write(tmp_path / name, ROWS_AS_TEXT[name])
    else:
        titles = [("1", "tea", "us"), ("1", "thé", "fr"), ("2", "mate", "us")]
        rows = [{"product_id": key, "title": title, "locale": locale} for key, title, locale in titles]
        path = write_parquet(tmp_path / name, rows)
    assert [product.title for product in read_products(path, where={"locale": "us"})] == ["tea", "mate"]
    with pytest.raises(ProductFileError, match="already used"):
        read(path)
    with pytest.raises(ProductFileError, match="no products with locale 'de'"):
        list(read_products(path, where={"locale": "de"}))
    with pytest.raises(ProductFileError, match=r"no such column.*has: locale, product_id, title") as caught:
        list(read_products(path, where={"country": "us"}))
    assert caught.value.column == "country"
    # Row numbers are those of the file.
    assert list(read_rows(path, ("title",), ("absent",), where={"locale": "us"})) == [
        (1, {"title": "tea"}),
        (3, {"title": "mate"}),
    ]


def test_rows_are_refused_where_a_needed_column_is_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", '{"sentence": "a"}\n')
    assert list(read_rows(path, ("sentence",))) == [(1, {"sentence": "a"})]
    with pytest.raises(ProductFileError, match="no such column") as caught:
        list(read_rows(path, ("label",)))
    assert caught.value.column == "label"
    with pytest.raises(ProductFileError, match="no such file"):
        list(read_rows(tmp_path / "gone.csv", ("label",)))
    with pytest.raises(ProductFileError, match="unknown kind"):
        list(read_rows(write(tmp_path / "p.txt", "x"), ("label",)))


def test_the_torn_end_of_a_jsonl_file_is_recognised(tmp_path: Path) -> None:
    found = fault(write(tmp_path / "p.jsonl", '{"product_id": "1", "title": "tea"}\n{"product_id"'))
    assert "half-written" in found.action


def test_a_half_written_parquet_file_is_refused(tmp_path: Path) -> None:
    rows = [{"product_id": str(i), "title": "tea"} for i in range(100)]
    path = write_parquet(tmp_path / "p.parquet", rows)
    whole = path.read_bytes()
    found = fault(write(path, whole[: len(whole) // 2]))
    assert "half-written" in found.action


def test_broken_text_in_parquet_is_found_by_row_and_column(tmp_path: Path) -> None:
    titles = pa.array([b"tea"] * 3_000 + [b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    ids = pa.array([str(i) for i in range(3_001)])
    pq.write_table(pa.table({"product_id": ids, "title": titles}), tmp_path / "p.parquet")
    found = fault(tmp_path / "p.parquet")
    assert (found.row, found.column) == (3_001, "title")


def test_a_missing_column_of_parquet_is_named(tmp_path: Path) -> None:
    found = fault(write_parquet(tmp_path / "p.parquet", [{"product_id": "1", "name": "tea"}]))
    assert found.column == "title" and "name" in found.problem


@pytest.mark.parametrize("name", ["p.txt", "p", "p.parquet.zip"])
def test_unknown_kinds_of_files_are_refused(tmp_path: Path, name: str) -> None:
    assert "unknown kind" in fault(write(tmp_path / name, "x")).problem


def test_absent_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "gone.csv").problem
    assert "holds none of" in fault(tmp_path).problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "product_id,title\n1,tea\n")
    path.chmod(0)
    assert "cannot be read" in fault(path).problem


def test_rows_are_expected_where_the_file_tells(tmp_path: Path) -> None:
    rows = [{"product_id": "1", "title": "tea"}, {"product_id": "2", "title": "tea"}]
    assert rows_expected(write_parquet(tmp_path / "p.parquet", rows)) == 2
    assert rows_expected(write(tmp_path / "p.jsonl", "{}\n{}\n{}\n")) == 3
    assert rows_expected(write(tmp_path / "p.csv", "a\n")) is None
    assert rows_expected(write(tmp_path / "q.parquet", b"x")) is None
    assert product_file(tmp_path / "p.csv") == tmp_path / "p.csv"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    head=st.sampled_from([b"", b"product_id,title\n", b'{"product_id": "1", "title": "t"}\n', b"PAR1"]),
    body=st.binary(max_size=200),
)
def test_any_bytes_are_products_or_a_product_file_error(suffix: str, head: bytes, body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"p{suffix}", head + body)
        try:
            for product in read_products(path):
                assert product.product_id and product.title
        except ProductFileError as refused:
            assert refused.path == path and refused.problem and refused.action


TITLES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@given(titles=st.lists(TITLES, min_size=1, max_size=8), flipped=st.integers(0, 10_000))
def test_a_flipped_byte_of_a_parquet_file_never_escapes_as_another_error(
    titles: list[str], flipped: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"product_id": str(i), "title": title} for i, title in enumerate(titles)]
        path = write_parquet(Path(folder) / "p.parquet", rows)
        assert [product.title for product in read_products(path)] == [title.strip() for title in titles]
        raw = bytearray(path.read_bytes())
        raw[flipped % len(raw)] ^= 0x10
        write(path, bytes(raw))
        try:
            list(read_products(path))
        except ProductFileError as refused:
            assert refused.problem and refused.action


@given(titles=st.lists(TITLES, min_size=1, max_size=8))
def test_jsonl_gives_back_what_was_written(titles: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"product_id": str(i), "title": title}) for i, title in enumerate(titles)]
        path = write(Path(folder) / "p.jsonl", "\n".join(lines))
        assert [product.title for product in read_products(path)] == [title.strip() for title in titles]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_who_hears_of_faults_gets_all_rows_that_have_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"products.{kind}"
    rows: list[tuple[bytes, bytes, bytes]] = [
        (b"A", b"tea", b"1"),
        (b"B", b"te\xffa", b"1"),
        (b"C", b"tea", b"-1"),
        (b"A", b"tea again", b"1"),
        (b"D", b"", b"1"),
        (b"E", b"last tea", b"2"),
    ]
    if kind == "csv":
        path.write_bytes(b"product_id,title,price\n" + b"".join(b",".join(row) + b"\n" for row in rows))
    elif kind == "jsonl":
        line = b'{"product_id": "%s", "title": "%s", "price": %s}\n'
        path.write_bytes(b"".join(line % row for row in rows))
    else:
        columns = {
            name: pa.array([row[place] for row in rows], pa.binary()).view(pa.string())
            for place, name in enumerate(("product_id", "title"))
        }
        columns["price"] = pa.array([float(row[2]) for row in rows])
        pq.write_table(pa.table(columns), path)
    refused: list[ProductFileError] = []
    kept = [product.product_id for product in read_products(path, refuse=refused.append)]
    assert kept == ["A", "E"]
    assert [problem.row for problem in refused] == [2, 3, 4, 5]
    with pytest.raises(ProductFileError):
        read(path)


def test_a_row_of_another_length_or_with_a_stray_quote_costs_no_other_row(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text('product_id,title\nA,tea\nB,tea,x\nC,"te"a\nD,tea\n', encoding="utf-8")
    refused: list[ProductFileError] = []
    assert [product.product_id for product in read_products(path, refuse=refused.append)] == ["A", "D"]
    assert [problem.row for problem in refused] == [2, 3]
