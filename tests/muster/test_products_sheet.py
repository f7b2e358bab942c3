"""A sheet comes back as it was written, runs no formula, and a broken one is named row and column."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.products import ProductFileError
from muster.products.sheet import plain, read_sheet, safe, write_sheet

COLUMNS = ["a", "b"]
AWKWARD = [
    'he said "no", twice',
    "two\r\nlines\nthree",
    "=1+1",
    "-3",
    "+a",
    "@x",
    "\ttab",
    "'quoted",
    "''",
    "",
]


def test_awkward_cells_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [{"a": one, "b": other} for one in AWKWARD for other in AWKWARD]
    write_sheet(tmp_path / "s.csv", COLUMNS, rows)
    assert read_sheet(tmp_path / "s.csv", COLUMNS) == (COLUMNS, rows)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_comes_back_and_starts_no_formula(text: str) -> None:
    assert plain(safe(text)) == text
    assert not safe(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_no_cell_of_the_file_starts_a_formula(tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.csv", COLUMNS, [{"a": one, "b": "x"} for one in AWKWARD])
    with (tmp_path / "s.csv").open(encoding="utf-8-sig", newline="") as file:
        for cells in csv.reader(file):
            assert not cells[0].startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize(
    ("text", "row", "column", "message"),
    [
        ("a\r\n1\r\n", None, "b", "is missing"),
        ("a,b,b\r\n1,2,3\r\n", None, "b", "more than once"),
        ("", None, "a", "is missing"),
        ("a,b\r\n1,2\r\n1\r\n", 2, "b", "1 cells, not 2"),
        ("a,b\r\n1,2,3\r\n", 1, "b", "3 cells, not 2"),
        ('a,b\r\n1,2\r\n1,"2\r\n', 2, None, "not CSV"),
        ('a,b\r\n1,"2"x\r\n', 1, None, "not CSV"),
    ],
)
def test_a_broken_file_is_named_by_row_and_column(
    tmp_path: Path, text: str, row: int | None, column: str | None, message: str
) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode())
    with pytest.raises(ProductFileError, match=message) as caught:
        read_sheet(path, COLUMNS)
    assert (caught.value.row, caught.value.column) == (row, column)


def test_a_file_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("a,b\r\né,1\r\n".encode("latin-1"))
    with pytest.raises(ProductFileError, match="UTF-8"):
        read_sheet(tmp_path / "s.csv", COLUMNS)


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.csv"
    write_sheet(path, COLUMNS, [{"a": "1", "b": "2"}])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muster.products.sheet.os.fsync", full)
    with pytest.raises(ProductFileError, match="No space left"):
        write_sheet(path, COLUMNS, [{"a": "3", "b": "4"}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
