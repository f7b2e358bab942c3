"""Event files are read whatever their kind and names, or refused with what to do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.insight.errors import InsightError
from muster.insight.events import BUY, CLICK, DAY_US, Events
from muster.insight.reading import Mapped, Reader
from tests.muster.insight.event_rows import AT_US, events, row

_ROWS = [
    row("answer", 1, receipt_id="a1", results=10, query="Hose ", tier="late"),
    row("click", 1, receipt_id="a1", product_id="p1", position=2),
    row("buy", 2, product_id="p2"),
]


def _read(*paths: Path, mapped: Mapped | None = None) -> Events:
    reader = Reader(mapped)
    for path in paths:
        reader.file(path)
    return reader.events()


def _written(folder: Path, kind: str) -> Path:
    path = folder / f"events.{kind}"
    names = list(dict.fromkeys(name for one in _ROWS for name in one))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{name: one.get(name) for name in names} for one in _ROWS]), path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(one) for one in _ROWS), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(_ROWS)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_all_kinds_of_files_say_the_same(tmp_path: Path, kind: str) -> None:
    found = _read(_written(tmp_path, kind))
    assert found.kind.tolist() == [0, CLICK, BUY]
    assert found.answer[0] == found.answer[1] >= 0 > found.answer[2]
    assert found.results.tolist() == [10, -1, -1]
    assert found.position.tolist() == [-1, 2, -1]
    assert found.at_us.tolist() == [AT_US] * 3
    assert found.names.queries == ["hose"]
    assert found.names.products == ["p1", "p2"]
    assert found.actor[0] == found.actor[1] != found.actor[2]


def test_answers_of_one_file_meet_the_feedback_of_another(tmp_path: Path) -> None:
    for name, rows in (("answers", _ROWS[:1]), ("feedback", _ROWS[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = _read(tmp_path / "answers.jsonl", tmp_path / "feedback.jsonl")
    assert found.answer[0] == found.answer[1] >= 0 > found.answer[2]


def test_a_shopper_named_by_the_caller_and_kept_under_a_pseudonym_is_one_person() -> None:
    reader = Reader()
    for rows in (
        [
            {"kind": "answer", "session": "caller", "receipt_id": "a1", "at_unix_us": AT_US},
            {"kind": "answer", "session": "caller", "receipt_id": "a2", "at_unix_us": AT_US + 1},
            {"kind": "answer", "session": "other", "receipt_id": "a3", "at_unix_us": AT_US + 2},
        ],
        [{"kind": "click", "shopper": "x1", "session": "y1", "receipt_id": "a1", "at_unix_us": AT_US + 3}],
    ):
        reader.batches([pa.RecordBatch.from_pylist(rows)], "rows")
    found = reader.events()
    assert found.people() == 2
    assert found.actor[0] == found.actor[1] == found.actor[3] != found.actor[2]
    assert found.session[0] == found.session[1] == found.session[3] != found.session[2]
    assert found.named.tolist() == [True, True, False, True]


def test_other_names_of_columns_and_kinds_can_be_told() -> None:
    rows = [{"what": "ordered", "who": "anna", "timestamp": 1_790_600_000, "item_id": "p1"}]
    found = events(rows, Mapped({"kind": "what", "shopper": "who"}, {"ordered": "buy"}))
    assert found.kind.tolist() == [BUY]
    assert found.at_us.tolist() == [1_790_600_000_000_000]
    assert found.named.all()


def test_a_tier_may_be_named_as_in_the_contract() -> None:
    found = events([row("answer", tier="TIER_LATE"), row("answer", tier="late", priority="PRIORITY_DEFAULT")])
    assert found.names.tiers == ["late"]
    assert found.names.priorities == ["default"]


def test_times_are_read_as_dates_too() -> None:
    rows = [
        {"kind": "click", "session": "v", "at": at} for at in ("2026-09-28T10:00:00Z", "2026-09-28 10:00:00")
    ]
    assert set(events(rows).at_us.tolist()) == {1_790_589_600_000_000}


def test_a_pseudonym_tells_until_when_it_is_known() -> None:
    pseudonym = f"0123abcd-30-690-{'a' * 32}"
    assert events([row(shopper=pseudonym)]).known_until_us.tolist() == [30 * 691 * DAY_US]


def test_no_name_of_a_shopper_or_visit_is_held() -> None:
    found = events([row(shopper="anna.smith", session="visit-of-anna", receipt_id="receipt-of-anna")])
    assert "anna" not in repr(found)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["click", "buy", "login", "", "FEEDBACK_KIND_VIEW", "impression"]),
                "shopper": st.sampled_from(["a", "b", "", None]),
                "session": st.sampled_from(["v", "w", "", None]),
                "at_unix_us": st.sampled_from([AT_US, 0, -5, None]),
                "query": st.none() | st.text(max_size=5),
            }
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_row_becomes_an_event_or_is_counted(rows: list[dict[str, Any]]) -> None:
    reader = Reader()
    schema = pa.schema([(name, pa.int64() if name == "at_unix_us" else pa.string()) for name in rows[0]])
    reader.batches([pa.RecordBatch.from_pylist(rows, schema=schema)], "rows")
    lost = sum(reader.problems.values())
    if lost == len(rows):
        with pytest.raises(InsightError, match="no event can be used"):
            reader.events()
        return
    found = reader.events()
    assert len(found) + lost == len(rows)
    assert np.all(found.actor >= 0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"kind": "click", "session": "v", "at_unix_s": 1}\nnot json', "line 2"),
        ("a.jsonl", '{"kind": "click", "session": "v"}', "at_unix_us or at_unix_ms"),
        ("a.csv", "kind,at_unix_us\nclick,5\n", "shopper or session"),
        ("a.csv", "kind,session,at_unix_us,position\nclick,v,5,third\n", "whole number"),
        ("a.csv", "kind,session,at\nclick,v,yesterday\n", "no time"),
        ("a.parquet", "not parquet", "cannot be read"),
        ("a.xlsx", "", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InsightError, match=said):
        _read(tmp_path / name)


def test_a_column_of_lists_is_refused() -> None:
    with pytest.raises(InsightError, match="neither text nor number"):
        events([row(session=["v", "w"])])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InsightError, match=r"gone\.csv: No such file"):
        _read(tmp_path / "gone.csv")


def test_a_mapping_to_what_is_not_there_is_refused() -> None:
    with pytest.raises(InsightError, match="no column 'colour'"):
        Mapped({"colour": "x"})
    with pytest.raises(InsightError, match="no kind 'bought'"):
        Mapped({}, {"x": "bought"})
    with pytest.raises(InsightError, match="has no column 'there'"):
        events([row()], Mapped({"query": "there"}))
