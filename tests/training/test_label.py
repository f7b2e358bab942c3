"""Suggesting what to judge, asking for it, and taking it in without harming the labels."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from muster.cli import app
from muster.products import ProductFileError
from muster.products.sheet import read_sheet, write_sheet
from tests.training.conftest import Workplace
from training.label import (
    COLUMNS,
    Suggestion,
    _gain_curve,
    ask,
    expected_change,
    load_sheet,
    main,
    merge,
    spread_over_queries,
    suggest,
)
from training.measure import fast_ndcg
from training.prepare import JudgedQuery, load_prepared

GRADES = "0 Wrong; 1 Poor; 2 Fair; 3 Right"


@pytest.fixture(scope="module")
def suggested(workplace: Workplace) -> list[Suggestion]:
    torch.set_num_threads(1)
    return suggest(workplace.recipe, workplace.data, workplace.run, count=20, pool=12)


@pytest.fixture
def shop(workplace: Workplace, tmp_path: Path) -> Path:
    """A copy of the data set that tests may change. Returns: its labels file."""
    shutil.copytree(workplace.data / "shop", tmp_path / "shop")
    return tmp_path / "shop" / "labels.parquet"


def row(query_id: str, product_id: str, grade: str = "", **more: str) -> dict[str, str]:
    cells = dict.fromkeys(COLUMNS, "") | {"set": "shop", "query": "shoes", "grades": GRADES}
    return cells | {"query_id": query_id, "product_id": product_id, "grade": grade} | more


def sheet(folder: Path, *rows: dict[str, str]) -> Path:
    write_sheet(folder / "sheet.csv", COLUMNS, rows)
    return folder / "sheet.csv"


def grades(path: Path) -> list[str]:
    return [one["grade"] for one in read_sheet(path, COLUMNS)[1]]


def unjudged(labels: Path, count: int) -> list[tuple[str, str]]:
    """Pairs without a label."""
    judged = {(str(one["query_id"]), str(one["product_id"])) for one in pq.read_table(labels).to_pylist()}
    queries = [str(one) for one in pq.read_table(labels.parent / "queries.parquet")["query_id"].to_pylist()]
    products = [
        str(one) for one in pq.read_table(labels.parent / "products.parquet")["product_id"].to_pylist()
    ]
    fresh = (pair for pair in itertools.product(queries, products) if pair not in judged)
    return list(itertools.islice(fresh, count))


# -- suggest ----------------------------------------------------------


def test_what_is_suggested_is_unjudged_and_of_training_queries(
    workplace: Workplace, suggested: list[Suggestion]
) -> None:
    known = {query.query_id: query for query in load_prepared(workplace.run).of("shop", "train")}
    assert len(suggested) == 20
    assert len({(one.query.query_id, one.product_id) for one in suggested}) == 20
    for one in suggested:
        assert one.product_id not in known[one.query.query_id].gains
        assert one.value >= 0
        assert all(ranker in one.why for ranker in ("bm25", "dense", "late"))


def test_suggestions_are_spread_over_queries(suggested: list[Suggestion]) -> None:
    assert len({one.query.query_id for one in suggested}) >= 5


def test_a_pair_merged_since_is_not_suggested_again(
    workplace: Workplace, suggested: list[Suggestion], shop: Path, tmp_path: Path
) -> None:
    first = suggested[0]
    path = sheet(tmp_path, row(first.query.query_id, first.product_id, "2"))
    assert merge(path, shop)["added"] == 1
    again = suggest(workplace.recipe, shop.parent.parent, workplace.run, count=20, pool=12)
    pairs = {(one.query.query_id, one.product_id) for one in again}
    assert (first.query.query_id, first.product_id) not in pairs


def test_vectors_are_kept_for_the_next_call(
    workplace: Workplace, suggested: list[Suggestion], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list((workplace.run / "label").glob("shop-*.npz"))
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    again = suggest(workplace.recipe, workplace.data, workplace.run, count=5, pool=12)
    assert files[0].stat().st_mtime_ns == before
    assert [(one.query.query_id, one.product_id) for one in again] == [
        (one.query.query_id, one.product_id) for one in suggested[:5]
    ]


def brute_change(gains: np.ndarray[Any, Any], at: int, probability: float) -> float:
    """The same expectation, by ranking twice and counting DCG."""
    total = 0.0
    for truth, share in ((1.0, probability), (0.0, 1.0 - probability)):
        known = gains.copy()
        known[at] = truth
        order = np.argsort(-gains, kind="stable")
        moved = np.argsort(-known, kind="stable")
        if (known[moved] == known[order]).all():
            continue
        total += share * (fast_ndcg(known, moved, gains) - fast_ndcg(known, order, gains))
    return total


def test_the_expected_change_is_that_of_ndcg_before_and_after() -> None:
    random = np.random.default_rng(3)
    for size in (2, 5, 10, 25):
        gains = random.random(size)
        for at in range(size):
            for probability in (0.0, 0.3, 1.0):
                assert expected_change(gains, at, probability) == pytest.approx(
                    brute_change(gains, at, probability), abs=1e-9
                )


def test_a_judgement_that_moves_nothing_is_worth_nothing() -> None:
    gains = np.array([1.0, 0.9, *([0.5] * 20)])
    assert expected_change(gains, 0, 1.0) == 0.0
    assert expected_change(gains, 20, 0.0) == 0.0
    assert expected_change(gains, 20, 0.5) > 0.0


def test_the_gain_curve_finds_the_slope_that_made_the_labels() -> None:
    random = np.random.default_rng(4)
    scores = random.normal(size=3000)
    gains = 1.0 / (1.0 + np.exp(-(2.0 * scores - 1.0)))
    slope, shift = _gain_curve(list(zip(scores.tolist(), gains.tolist(), strict=True)))
    assert slope == pytest.approx(2.0, abs=0.1)
    assert shift == pytest.approx(-1.0, abs=0.1)
    assert _gain_curve([(0.0, 1.0)]) == (1.0, 0.0)


def test_a_second_pair_of_a_query_gives_way_and_a_title_comes_once() -> None:
    first = JudgedQuery("shop", "1", "train", "a", {})
    second = JudgedQuery("shop", "2", "train", "b", {})
    found = [
        Suggestion("shop", first, "p1", 1.0, ""),
        Suggestion("shop", first, "p2", 0.95, ""),
        Suggestion("shop", first, "p3", 0.9, ""),
        Suggestion("shop", second, "p1", 0.7, ""),
    ]
    titles = {("shop", "p1"): "x", ("shop", "p2"): "x", ("shop", "p3"): "y"}
    taken = spread_over_queries(found, 10, titles)
    assert [(one.query.query_id, one.product_id) for one in taken] == [("1", "p1"), ("2", "p1"), ("1", "p3")]
    assert len(spread_over_queries(found, 2, titles)) == 2


# -- ask ----------------------------------------------------------


def answers(*texts: str) -> Callable[[str], str]:
    given: Iterator[str] = iter(texts)

    def read(_: str) -> str:
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_grade_is_written_at_once_and_the_next_call_goes_on(tmp_path: Path) -> None:
    path = sheet(tmp_path, *(row("q", str(number)) for number in range(4)))
    shown: list[str] = []
    ask(path, read=answers("3", "fair", "s"), write=shown.append)
    assert grades(path) == ["3", "2", "skip", ""]
    assert ask(path, read=answers("0"), write=shown.append) == 3
    assert grades(path) == ["3", "2", "skip", "0"]
    ask(path, read=answers("1"), write=shown.append, again=True)
    assert grades(path) == ["3", "2", "1", "0"]
    assert any("[3] Right" in text and "query: shoes" in text for text in shown)


def test_undo_takes_back_the_last_answer_as_often_as_there_is_one(tmp_path: Path) -> None:
    path = sheet(tmp_path, *(row("q", str(number)) for number in range(3)))
    ask(path, read=answers("3", "s", "u", "u", "1", "q"), write=lambda _: None)
    assert grades(path) == ["1", "", ""]
    said: list[str] = []
    ask(path, read=answers("u", "q"), write=said.append)
    assert any("nothing to take back" in text for text in said)
    assert grades(path) == ["1", "", ""]


def test_a_wrong_key_is_refused_and_asked_again(tmp_path: Path) -> None:
    path = sheet(tmp_path, row("q", "1"))
    said: list[str] = []
    ask(path, read=answers("4", "x", "-1", "", "2"), write=said.append)
    assert grades(path) == ["2"]
    assert sum("none of the keys" in text for text in said) == 4


def test_a_product_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = sheet(tmp_path, row("q", "1", title="red\x1b[2Jshoe\nsecond"))
    said: list[str] = []
    ask(path, read=answers("q"), write=said.append)
    assert "\x1b" not in "".join(said)
    assert any("red [2Jshoe second" in text for text in said)


# -- merge ----------------------------------------------------------


def test_grades_are_added_with_the_columns_of_their_query(shop: Path, tmp_path: Path) -> None:
    (query, product), (other_query, other_product) = unjudged(shop, 2)
    before = pq.read_table(shop)
    path = sheet(tmp_path, row(query, product, "3"), row(other_query, other_product, "skip"))
    assert merge(path, shop) == {"added": 1, "replaced": 0, "same": 0, "ungraded": 1}
    after = pq.read_table(shop)
    assert after.schema == before.schema
    assert after.slice(0, len(before)).equals(before)
    added = after.slice(len(before)).to_pylist()
    assert len(added) == 1
    splits = {
        str(one["query_id"]): one["split"]
        for one in pq.read_table(shop.parent / "queries.parquet").to_pylist()
    }
    assert str(added[0]["query_id"]) == query and str(added[0]["product_id"]) == product
    if "split" in added[0]:
        assert added[0]["split"] == splits[query]
    assert merge(path, shop) == {"added": 0, "replaced": 0, "same": 1, "ungraded": 1}
    assert pq.read_table(shop).equals(after)


def test_every_column_that_says_a_grade_is_filled_in(shop: Path, tmp_path: Path) -> None:
    (query, product) = unjudged(shop, 1)[0]
    splits = {
        str(one["query_id"]): one["split"]
        for one in pq.read_table(shop.parent / "queries.parquet").to_pylist()
    }
    pq.write_table(
        pa.table(
            {
                "query_id": pa.array([query]),
                "product_id": pa.array(["none"]),
                "label": pa.array(["Exact"]),
                "gain": pa.array([1.0]),
                "split": pa.array(["train"]),
                "rater_1": pa.array([2], type=pa.int32()),
            }
        ),
        shop,
    )
    scale = "0 Irrelevant; 0.01 Complement; 0.1 Substitute; 1 Exact"
    merge(sheet(tmp_path, row(query, product, "substitute", grades=scale)), shop)
    assert pq.read_table(shop).to_pylist()[1] == {
        "query_id": query,
        "product_id": product,
        "label": "Substitute",
        "gain": 0.1,
        "split": splits[query],
        "rater_1": None,
    }


def test_a_grade_that_contradicts_the_labels_is_refused_unless_asked(shop: Path, tmp_path: Path) -> None:
    before = pq.read_table(shop)
    first = before.to_pylist()[0]
    old = next(first[name] for name in ("gain", "rating") if name in first)
    new = "0" if old else "1"
    path = sheet(tmp_path, row(str(first["query_id"]), str(first["product_id"]), new))
    with pytest.raises(ProductFileError, match=r"already judged.*--replace") as caught:
        merge(path, shop)
    assert (caught.value.row, caught.value.column) == (1, "grade")
    assert pq.read_table(shop).equals(before)
    assert merge(path, shop, replace=True)["replaced"] == 1
    after = pq.read_table(shop)
    assert len(after) == len(before)
    assert after.slice(0, len(after) - 1).equals(before.slice(1))


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        ({"query_id": "nobody"}, "query_id", "'nobody' is not among the queries"),
        ({"product_id": "nothing"}, "product_id", "'nothing' is not among the products"),
        ({"query_id": " "}, "query_id", "the cell is empty"),
        ({"grade": "7"}, "grade", r"'7' is not on the scale.*0 \(Wrong\).*3 \(Right\)"),
        ({"grade": "-1"}, "grade", "not on the scale"),
        ({"grades": "good; bad"}, "grades", "'good' is not a grade"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_merged(
    shop: Path, tmp_path: Path, change: dict[str, str], column: str, message: str
) -> None:
    before = shop.read_bytes()
    (first, second) = unjudged(shop, 2)
    path = sheet(tmp_path, row(*first, "1"), row(*second, "1") | change)
    with pytest.raises(ProductFileError, match=message) as caught:
        merge(path, shop)
    assert (caught.value.row, caught.value.column) == (2, column)
    assert shop.read_bytes() == before


def test_two_rows_that_contradict_each_other_are_refused(shop: Path, tmp_path: Path) -> None:
    pair = unjudged(shop, 1)[0]
    with pytest.raises(ProductFileError, match="earlier row") as caught:
        merge(sheet(tmp_path, row(*pair, "1"), row(*pair, "2")), shop)
    assert caught.value.row == 2
    assert merge(sheet(tmp_path, row(*pair, "1"), row(*pair, "1")), shop)["added"] == 1


def test_a_sheet_of_several_sets_needs_the_name_of_one(shop: Path, tmp_path: Path) -> None:
    pair = unjudged(shop, 1)[0]
    path = sheet(tmp_path, row(*pair, "1"), row("x", "y", "1", set="other"))
    with pytest.raises(ProductFileError, match=r"other, shop.*--set"):
        merge(path, shop)
    with pytest.raises(ProductFileError, match="no row is of the set 'third'"):
        merge(path, shop, only="third")
    assert merge(path, shop, only="shop")["added"] == 1


def test_a_write_that_fails_leaves_the_labels(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sheet(tmp_path, row(*unjudged(shop, 1)[0], "1"))
    before = shop.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.label.os.fsync", full)
    with pytest.raises(ProductFileError, match="No space left"):
        merge(path, shop)
    assert shop.read_bytes() == before
    assert not list(shop.parent.glob("*.part"))


# -- the command ----------------------------------------------------------


def test_the_command_goes_all_the_way_round(
    workplace: Workplace,
    suggested: list[Suggestion],
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "next.csv"
    recipe = workplace.run.parent / "recipe.toml"
    where = ["--data", str(shop.parent.parent), "--run", str(workplace.run), "--recipe", str(recipe)]
    asked = ["label", "suggest", *where, "--count", "3", "--pool", "12", "--out", str(out), "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pairs"] == 3
    assert len(load_sheet(out).rows) == 3
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    ask(out, read=answers("0", "1", "s"), write=lambda _: None)
    merged = CliRunner().invoke(app, ["label", "merge", str(out), "--into", str(shop), "--json"])
    assert merged.exit_code == 0, merged.output
    told = json.loads(merged.stdout)
    assert (told["added"], told["ungraded"]) == (2, 1)


def test_bad_input_ends_with_code_2_and_a_reason(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(workplace.data), "--out", str(tmp_path / "x.csv")]
    recipe = ["--recipe", str(workplace.run.parent / "recipe.toml")]
    assert main(["suggest", *where, *recipe, "--run", str(tmp_path)]) == 2
    assert "training.prepare" in capsys.readouterr().err
    assert main(["suggest", *where, *recipe, "--run", str(workplace.run), "--set", "attic"]) == 2
    assert "'attic' is not a set" in capsys.readouterr().err
    assert main(["suggest", *where, *recipe, "--run", str(workplace.run), "--split", "noon"]) == 2
    assert "'noon'" in capsys.readouterr().err
    assert main(["ask", str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv" in capsys.readouterr().err


def test_the_command_is_listed_without_loading_what_training_needs() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "label" in result.stdout
    source = Path(sys.modules["muster.commands.training"].__file__ or "").read_text(encoding="utf-8")
    assert "import training" not in source
