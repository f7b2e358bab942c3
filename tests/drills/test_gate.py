"""The gate runs what a profile names, and believes nothing but a verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drills.book import find
from drills.experiment import Verdict
from drills.gate import ProfileError, Task, load_profile, read_outcome, rehearse, run_gate
from muster.bundle import Rehearsed, make_key, read_gate
from muster.cli import app
from tests.fixtures.tiny_bundle import build


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "tiny"
    build(folder)
    return folder


def test_the_profiles_that_come_along_name_drills_of_the_book() -> None:
    for name in ("release", "quick"):
        for task in load_profile(name):
            assert find(task.drill).name == task.drill


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[other]\ndrills = ['failover']", "there are: other"),
        ("", "there are: none"),
        ("[release]\ndrills = []", "at least one"),
        ("[release]\ndrills = 'failover'", "needs a list"),
        ("[release]\ndrills = [3]", "needs a list"),
        ("[release]\ndrills = ['no_such_drill']", "no drill named"),
        ("[release]\ndrills = ['']", "names no drill"),
        ("[release]\ndrills = ['failover \"']", "names no drill"),
        ("release = [", "cannot be read"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_by_what_is_wrong(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=words):
        load_profile("release", path)
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile("release", tmp_path / "absent.toml")


def test_options_of_a_drill_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text("[mine]\ndrills = ['rolling-restart --runs 2']")
    assert load_profile("mine", path) == [Task("rolling_restart", ("--runs", "2"))]


@pytest.mark.parametrize(
    ("told", "code", "verdict"),
    [
        ('{"verdict": "held", "reads": 3}', 0, "held"),
        ('{"verdict": "deviated", "reason": "late"}', 10, "deviated"),
        ('{"verdict": "inconclusive", "reason": "busy"}', 20, "inconclusive"),
        # A verdict that the exit code does not bear out is none.
        ('{"verdict": "held"}', 10, "inconclusive"),
        ('{"verdict": "fine"}', 0, "inconclusive"),
        ("[]", 0, "inconclusive"),
        ("", 1, "inconclusive"),
        ("not json", 0, "inconclusive"),
    ],
)
def test_only_a_verdict_that_its_exit_code_bears_out_counts(told: str, code: int, verdict: str) -> None:
    assert read_outcome(Task("failover"), told, code).verdict == verdict


def test_a_drill_that_cannot_start_is_no_verdict(tmp_path: Path) -> None:
    shim = tmp_path / "python"
    shim.write_text(f"#!{sys.executable}\nimport sys; sys.exit(3)\n")
    shim.chmod(0o755)
    found = rehearse(Task("failover"), tmp_path, interpreter=str(shim))
    assert (found.verdict, "exit code 3" in found.reason) == ("inconclusive", True)


def test_the_worst_verdict_decides_and_the_record_lies_beside_the_bundle(
    bundle: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    verdicts = {"failover": "held", "deadline_storm": "deviated"}
    gate, verdict = run_gate(
        bundle,
        "release",
        [Task("failover", ("--runs", "3")), Task("deadline_storm")],
        make_key(tmp_path / "key.pem"),
        tell=said.append,
        rehearse=lambda task, _: Rehearsed(task.drill, verdicts[task.drill], "", task.command, {}),
    )
    assert verdict is Verdict.DEVIATED
    assert not gate.held
    assert read_gate(bundle) == gate
    assert said[0] == "1 of 2: failover --runs 3"


def test_the_command_ends_as_the_drills_did_unless_somebody_gave_a_reason(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text("[release]\ndrills = ['failover']")
    code = {"value": 10}

    def ended(*_: object, **__: object) -> object:
        verdict = {0: "held", 10: "deviated"}[code["value"]]
        told = json.dumps({"drill": "failover", "verdict": verdict})
        return type("Ended", (), {"stdout": told, "returncode": code["value"]})()

    monkeypatch.setattr("drills.gate.subprocess.run", ended)
    command = ["drill", "gate", str(bundle), "--profiles", str(profiles), "--json"]
    assert CliRunner().invoke(app, command).exit_code == 10
    overridden = CliRunner().invoke(app, [*command, "--override", "a known flaw"])
    assert overridden.exit_code == 0
    found = read_gate(bundle)
    assert found is not None
    assert (found.override, found.held) == ("a known flaw", False)
    assert CliRunner().invoke(app, [*command, "--override", " "]).exit_code == 2
    code["value"] = 0
    assert CliRunner().invoke(app, command).exit_code == 0
    unknown = CliRunner().invoke(app, ["drill", "gate", str(bundle), "--profile", "none"])
    assert unknown.exit_code == 2
