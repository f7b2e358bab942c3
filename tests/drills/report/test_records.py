"""The records of drills: kept, found again, never mixed up with another file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from drills.experiment import Judgement, Verdict
from drills.outcome import tell
from drills.report.records import DEFAULT_PATH, VARIABLE, Records, RecordsError, UnknownRun, default_path
from tests.drills.report.made import run


def test_a_run_comes_back_as_it_was_with_a_number(tmp_path: Path) -> None:
    records = Records(tmp_path / "deep" / "records.sqlite")
    assert records.add(run(rto_ms=51.5)) == 1
    assert records.add(run("deadline_storm", verdict="deviated")) == 2
    (found,) = records.of("failover")
    assert found.number == 1
    assert found.figure("rto_ms.p50") == 51.5
    assert found == run(rto_ms=51.5, number=1)
    assert records.drills() == ["deadline_storm", "failover"]


def test_the_newest_runs_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.sqlite")
    for number in range(5):
        records.add(run(rto_ms=float(number)))
    assert [one.figure("rto_ms.p50") for one in records.of("failover", limit=3)] == [4.0, 3.0, 2.0]


def test_runs_are_named_by_number_by_drill_and_by_how_far_back(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.sqlite")
    for rto_ms in (1.0, 2.0, 3.0):
        records.add(run(rto_ms=rto_ms))
    assert records.find("2").figure("rto_ms.p50") == 2.0
    assert records.find("failover").number == 3
    assert records.find("failover~2").number == 1
    for nothing in ("9", "failover~3", "rolling-restart", "a b", "", "failover~x"):
        with pytest.raises(UnknownRun):
            records.find(nothing)
    with pytest.raises(UnknownRun, match="there are runs of: failover"):
        records.find("hang")


def test_without_a_file_there_are_no_runs_and_none_is_made(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.sqlite")
    assert records.of("failover") == []
    assert records.drills() == []
    assert not (tmp_path / "records.sqlite").exists()


@pytest.mark.parametrize("content", ["other", "newer", "garbage"])
def test_a_file_of_another_kind_is_left_as_it_is_and_the_message_says_what_to_do(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "records.sqlite"
    if content == "garbage":
        path.write_bytes(b"this is no database at all" * 100)
    else:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (value)")
            if content == "newer":
                database.execute("PRAGMA user_version = 7")
        database.close()
    before = path.read_bytes()
    with pytest.raises(RecordsError, match="move it away"):
        Records(path).add(run())
    assert path.read_bytes() == before


def test_drills_that_end_together_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    code = (
        "import sys; from pathlib import Path; from drills.report.records import Records;"
        " from tests.drills.report.made import run;"
        " [Records(Path(sys.argv[1])).add(run()) for _ in range(20)]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    found = Records(path).of("failover", limit=1000)
    assert sorted(one.number for one in found) == list(range(1, 81))


def test_the_variable_names_the_file_and_empty_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    assert default_path() == DEFAULT_PATH
    monkeypatch.setenv(VARIABLE, "")
    assert default_path() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.sqlite"))
    assert default_path() == tmp_path / "mine.sqlite"


def test_a_drill_that_ends_is_kept_and_one_that_cannot_be_keeps_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "records.sqlite"))
    judgement = Judgement(Verdict.DEVIATED, {"reads": 4}, ("one failed", "another too"))
    told = {"as_json": True, "folder": tmp_path / "run", "details": {"seed": 3}}
    assert tell("failover", judgement, **told) == 10  # type: ignore[arg-type]
    (kept,) = Records(tmp_path / "records.sqlite").of("failover")
    assert (kept.verdict, kept.reason, kept.figures) == ("deviated", "one failed; another too", {"reads": 4})
    assert kept.details == {"seed": 3}
    assert kept.noise["fsync_p99_ms"] > 0
    (tmp_path / "records.sqlite").write_bytes(b"garbage" * 1000)
    assert tell("failover", judgement, **told) == 10  # type: ignore[arg-type]
    assert "not kept" in capsys.readouterr().err
