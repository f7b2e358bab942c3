"""The commands over the records."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drills.book import DRILLS
from drills.report.headlines import HEADLINES
from drills.report.records import VARIABLE, Records
from muster.cli import app
from tests.drills.report.made import run


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    path = tmp_path / "records.sqlite"
    monkeypatch.setenv(VARIABLE, str(path))
    return Records(path)


def told(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["drill", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_report_is_a_page_junit_xml_and_json(records: Records, tmp_path: Path) -> None:
    records.add(run(rto_ms=48.0))
    records.add(run(rto_ms=79.0))
    page, junit = tmp_path / "out" / "report.html", tmp_path / "xml" / "drills.xml"
    text = told("report", "--out", str(page), "--junit", str(junit))
    assert f"1 of {len(DRILLS)} drills" in text.replace("\n", " ")
    assert "79 ms" in page.read_text()
    assert 'name="failover"' in junit.read_text()
    found: list[dict[str, Any]] = json.loads(told("report", "--json"))
    assert [one["drill"] for one in found] == [drill.name for drill in DRILLS]
    failover = next(one for one in found if one["drill"] == "failover")
    assert failover["run"]["figures"]["rto_ms"]["p50"] == 79.0
    assert failover["before"]["figures"]["rto_ms"]["p50"] == 48.0
    assert next(one for one in found if one["drill"] != "failover")["verdict"] is None


def test_two_runs_are_compared_by_name_or_number(records: Records) -> None:
    records.add(run(rto_ms=48.0))
    records.add(run(rto_ms=79.0))
    found = json.loads(told("compare", "failover~1", "2", "--json"))
    (figure,) = found["figures"]
    assert (figure["figure"], figure["a"], figure["b"], figure["apart"]) == ("rto_ms", 50.0, 81.0, True)
    assert "rto_ms" in told("compare", "1", "2")


def test_a_run_that_is_not_there_is_bad_usage(records: Records) -> None:
    records.add(run())
    assert "there are runs of: failover" in told("compare", "hang", "failover", code=2).replace("\n", " ")


def test_every_drill_of_the_book_has_headlines_and_none_names_a_figure_twice() -> None:
    assert set(HEADLINES) == {drill.name for drill in DRILLS}
    for headlines in HEADLINES.values():
        figures = [headline.figure for headline in headlines]
        assert len(set(figures)) == len(figures)


def test_headlines_name_figures_that_the_drills_print() -> None:
    for name, headlines in HEADLINES.items():
        printed = importlib.import_module(f"drills.{name}").EMPTY
        for headline in headlines:
            assert headline.figure.partition(".")[0] in printed, (name, headline.figure)
