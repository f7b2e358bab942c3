"""The command line of a tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drills.experiment import Inconclusive
from drills.tune import command
from drills.tune.kept import read_study
from drills.tune.space import HEDGE, REPLICAS, TTL
from drills.tune.study import Result
from tests.drills.tune.surface import MEASURED, POOR, MadeUp
from tests.drills.tune.test_study import tune


@pytest.fixture(autouse=True)
def _records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSTER_DRILL_RECORDS", str(tmp_path / "records.sqlite"))


def test_a_tune_begins_with_the_files_but_never_with_the_store_of_the_service(tmp_path: Path) -> None:
    config, client = tmp_path / "replica.toml", tmp_path / "client.toml"
    config.write_text(
        'replica = "r1"\nbundle = "models/b"\ndata_dir = "data"\n[lease]\nttl_ms = 3000\neligible = true\n'
        '[catalogue]\npoll_ms = 7\nstore = "postgresql+psycopg://m@db:5432/shop"\n[metrics]\nlisten = "h:1"\n'
    )
    client.write_text("hedge_after_ms = 200\nattempts_max = 3\n")
    given = command.options().parse_args(
        ["--config", str(config), "--client", str(client), "--replicas", "4", "--profile", "quick"]
    )
    study = command.begin(given, tmp_path)
    assert (study.start[TTL], study.start[HEDGE], study.start[REPLICAS]) == (3000, 200, 4)
    assert study.sections == {"lease": {"eligible": True}, "catalogue": {"poll_ms": 7}}
    assert study.client == {"attempts_max": 3}
    assert study.bundle == str(tmp_path / "models" / "b")
    assert read_study(tmp_path) == study


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        (["--client"], "hedge = 1\n", "no such setting of the client: hedge"),
        (["--client"], 'hedge_after_ms = "soon"\n', "not a number: hedge_after_ms"),
        (["--client"], "hedge_after_ms = -1\n", "must be above 0"),
        (["--config"], "[lease\n", "cannot be read"),
        (["--config"], "[lease]\nttl_ms = true\n", "lease.ttl_ms = True is no number"),
        (["--profile", "x", "--profiles"], "[y]\n", "no profile 'x'"),
        (["--resume", "--config"], "", "leave the other options out"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str, reason: str
) -> None:
    path = tmp_path / "given.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        command.main([*options, str(path), "--journal", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("what", ["nothing", "damaged", "finished"])
def test_what_cannot_go_on_is_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    if what == "damaged":
        (tmp_path / "study.json").write_text('{"name": 1}')
    if what == "finished":
        (tmp_path / "result.json").write_text("{}")
    code = command.main(["--resume", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 20 and told["verdict"] == "inconclusive" and told["recommended"] is False
    assert ("come to its end" if what == "finished" else "no tune that can go on") in told["reason"]


def test_a_tune_goes_on_with_more_minutes_where_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def few(study: Any, folder: Path, *, progress: bool) -> Result:
        asked.append(study.minutes)
        raise Inconclusive("too few")

    monkeypatch.setattr(command, "tune", few)
    folder = str(tmp_path / "run")
    for options in (["--minutes", "2", "--journal"], ["--resume"], ["--minutes", "50", "--resume"]):
        assert command.main([*options, folder]) == 20
    assert asked == [2.0, 2.0, 50.0]


def test_what_is_recommended_is_printed_once_as_json_and_its_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(study: Any, folder: Path, *, progress: bool) -> Result:
        study.start = dict(POOR)
        return tune(folder, POOR, MadeUp(noise=0.05)).run(MEASURED)

    monkeypatch.setattr(command, "tune", made_up)
    folder = tmp_path / "run"
    assert command.main(["--journal", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "held" and told["recommended"]
    assert {path.name for path in folder.iterdir()} >= {
        "replica.toml",
        "client.toml",
        "tune.png",
        "result.json",
    }
    assert command.main(["--resume", str(folder)]) == 20, "it has come to its end"


def test_a_machine_that_is_too_noisy_ends_with_20_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loud(study: Any, folder: Path, *, progress: bool) -> Result:
        raise Inconclusive("this machine is too noisy: a durable write takes 500 ms (p99), the bound is 60")

    monkeypatch.setattr(command, "tune", loud)
    assert command.main(["--journal", str(tmp_path / "run")]) == 20
    assert "the bound is 60" in capsys.readouterr().out
    assert (tmp_path / "run" / "study.json").exists(), "so that it can go on"
