"""Run files become orders, or are refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.products import ProductFileError
from muster.products.runs import read_run


def test_orders_follow_the_score_and_ties_the_product(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("q Q0 c 1 0.5 x\nq Q0 b 2 0.5 x\nq Q0 a 3 2 x\nr Q0 a 1 -1e3 x\n")
    assert read_run(path) == {"q": ["a", "b", "c"], "r": ["a"]}


@pytest.mark.parametrize("line", ["q Q0 p", "q Q0 p 1 high x", "q Q0 p 1 nan x", "q Q0 p 1 inf x", "", "a b"])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.run"
    path.write_text(f"q Q0 p 1 2 x\n{line}\nq Q0 r 1 2 x\n")
    with pytest.raises(ProductFileError, match="line 2"):
        read_run(path)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.run").write_bytes(b"\xff\xfe\x00")
    for name in ("none.run", "bytes.run"):
        with pytest.raises(ProductFileError, match="cannot be read"):
            read_run(tmp_path / name)


@settings(derandomize=True, max_examples=60)
@given(st.text(max_size=80))
def test_any_text_is_an_order_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("run") / "a.run"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        assert all(read_run(path).values())
    except ProductFileError as error:
        assert "line" in str(error) or "cannot be read" in str(error)
