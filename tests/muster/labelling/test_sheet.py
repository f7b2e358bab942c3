"""A sheet that people fill in becomes judgements that training reads."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.labelling.queue import Pair
from muster.labelling.sheet import judgements_of, query_id_of, write_pairs
from muster.products import read_judgements
from muster.products.errors import ProductFileError
from tests.muster.commands.command_line import muster

PAIRS = [
    Pair("mouse", "m1", ("passed over", "contradicted"), 60, 0, 20.5, judged=1.0),
    Pair("=cmd()", "-m2", ("commented",), 0, 0, 0.0),
    Pair("lamp, red", "l3", ("sought out",), 60, 58, 9.0),
]


def filled(path: Path, gains: list[str]) -> Path:
    """The sheet with its gains, as a spreadsheet would save it."""
    write_pairs(path, PAIRS, ids={"mouse": "17"}, titles={"m1": "A mouse", "-m2": "+1 mouse"})
    rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "gain": gain} for row, gain in zip(rows, gains, strict=True))
    return path


def test_no_cell_is_a_formula_and_the_sheet_is_its_owners_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "queue.csv", ["", "", ""])
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    assert not [cell for line in rows for cell in line if cell.startswith(("=", "+", "-", "@"))]
    write_pairs(tmp_path / "own.csv", PAIRS, ids={}, titles={})
    assert (tmp_path / "own.csv").stat().st_mode & 0o077 == 0


def test_what_was_filled_in_is_read_as_judgements(tmp_path: Path) -> None:
    done = judgements_of(filled(tmp_path / "queue.csv", ["0", " 0.5", ""]), tmp_path / "out")
    assert (done.judged, done.empty) == (2, 1)
    read = read_judgements(tmp_path / "out", "train")
    assert read.queries == {"17": "mouse", query_id_of("=cmd()"): "=cmd()"}
    assert read.gains == {"17": {"m1": 0.0}, query_id_of("=cmd()"): {"-m2": 0.5}}


def test_judgements_from_before_stay_but_for_the_pairs_judged_anew(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    pq.write_table(
        pa.table({"query_id": ["17", "18"], "query": ["Mouse", "desk"], "split": ["dev", "test"]}),
        before / "queries.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "query_id": ["17", "17", "18"],
                "product_id": ["m1", "m9", "d1"],
                "label": ["Exact", "Exact", "S"],
            }
        ),
        before / "labels.parquet",
    )
    judgements_of(filled(tmp_path / "queue.csv", ["0", "1", "1"]), tmp_path / "out", before)
    assert read_judgements(tmp_path / "out", "dev").gains == {"17": {"m1": 0.0, "m9": 1.0}}
    assert read_judgements(tmp_path / "out", "test").gains == {"18": {"d1": 0.1}}
    assert set(read_judgements(tmp_path / "out", "train").queries.values()) == {"=cmd()", "lamp, red"}
    with pytest.raises(ProductFileError, match="holds judgements already"):
        judgements_of(tmp_path / "queue.csv", tmp_path / "out")


@pytest.mark.parametrize(
    ("gains", "told"),
    [(["", "", ""], "no row has a gain"), (["good", "", ""], "row 1"), (["", "-1", ""], "row 2")],
)
def test_a_sheet_that_says_nothing_or_something_else_is_refused(
    tmp_path: Path, gains: list[str], told: str
) -> None:
    with pytest.raises(ProductFileError, match=told):
        judgements_of(filled(tmp_path / "queue.csv", gains), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pair_with_two_gains_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "queue.csv", ["1", "", ""])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1].rsplit(",", 1)[0] + ",0"]) + "\n")
    with pytest.raises(ProductFileError, match=r"row 4: .*another gain"):
        judgements_of(path, tmp_path / "out")


@given(
    query=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)
)
def test_any_query_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, query: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_pairs(folder / "sheet.csv", [Pair(query, "p", ("commented",), 0, 0, 0.0)], ids={}, titles={})
    path = folder / "sheet.csv"
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], [*rows[1][:-1], "1"]])
    judgements_of(path, folder / "out")
    assert list(read_judgements(folder / "out", None).queries.values()) == [query]


def test_the_commands_lead_from_events_to_judgements(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    rows = [
        {"kind": kind, "shopper": f"s{person}", "at_unix_us": 1_790_600_000_000_000 + person,
         "product_id": product, "position": position, "query": "mouse", "receipt_id": f"r{person}"}
        for person in range(40)
        for position, product in enumerate(("m1", "m2"), start=1)
        for kind in (["view", "click"] if product == "m2" else ["view"])
    ]  # fmt: skip
    events.write_text("".join(json.dumps(one) + "\n" for one in [*rows, {**rows[0], "kind": "comment"}]))
    sheet = tmp_path / "queue.csv"
    done = muster("feedback", "queue", str(events), "--out", str(sheet), "--json")
    assert done.exit_code == 0, done.output
    [pair] = json.loads(done.stdout)["pairs"]
    assert (pair["query"], pair["product_id"], pair["reasons"]) == ("mouse", "m1", ["commented"])
    assert muster("feedback", "labels", str(sheet), "--out", str(tmp_path / "mine")).exit_code == 2
    sheet.write_text(sheet.read_text().rstrip("\r\n") + "0\n")
    done = muster("feedback", "labels", str(sheet), "--out", str(tmp_path / "mine"))
    assert (done.exit_code, "1 pairs judged" in done.stdout) == (0, True), done.output
    assert list(read_judgements(tmp_path / "mine", "train").gains.values()) == [{"m1": 0.0}]
    assert muster("feedback", "queue", str(tmp_path / "nothing.jsonl")).exit_code == 2
