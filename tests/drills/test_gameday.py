"""Texts that cron and Kubernetes read, for what was asked and nothing more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from drills.gameday import GameDay, GameDayError, check_moments, to_cron, to_kubernetes
from muster.cli import app


@pytest.mark.parametrize("at", ["0 4 * * 1", "*/15 0-6 1,15 * *", "59 23 31 12 7", "5 */2 * 1-6/2 0"])
def test_moments_that_cron_understands_are_taken(at: str) -> None:
    check_moments(at)


@pytest.mark.parametrize(
    "at",
    [
        "",
        "0 4 * *",
        "60 4 * * 1",
        "0 24 * * *",
        "0 4 0 * *",
        "0 4 * 13 *",
        "0 4 * * 8",
        "a * * * *",
        "@daily",
    ],
)
def test_moments_that_it_would_not_are_refused(at: str) -> None:
    with pytest.raises(GameDayError):
        check_moments(at)


def test_the_line_of_a_crontab_runs_the_profile_in_the_checkout(tmp_path: Path) -> None:
    folder = tmp_path / "it's 100%"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "run" / "drills").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text('muster() { printf "<%s>" "$@"; }\n')
    line = to_cron(GameDay("0 4 * * 1", "release", "models/my bundle", folder))
    moments, command = line.rstrip("\n").split(" cd ", 1)
    assert moments == "0 4 * * 1"
    # As cron does before it gives the rest to the shell.
    subprocess.run(["sh", "-c", "cd " + command.replace("\\%", "%")], check=True)
    assert (folder / "run/drills/game-day.log").read_text() == (
        "<drill><gate><models/my bundle><--profile><release>"
    )


def test_the_job_of_a_cluster_is_yaml_with_the_same_command() -> None:
    day = GameDay("0 4 * * 1", "release", '/bundles/"mine"', image="registry/muster:1")
    job = yaml.safe_load(to_kubernetes(day))
    assert (job["kind"], job["spec"]["schedule"]) == ("CronJob", "0 4 * * 1")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/muster:1"
    assert container["command"][2] == day.command
    with pytest.raises(GameDayError, match="--image"):
        to_kubernetes(GameDay("0 4 * * 1", "release", "x"))
    with pytest.raises(GameDayError, match="one line"):
        GameDay("0 4 * * 1", "release\nmore", "x")


def test_the_command_prints_the_text_or_says_what_is_wrong() -> None:
    command = ["drill", "schedule", "--at", "0 4 * * 1"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0
    assert told.output.startswith("0 4 * * 1 cd ")
    assert CliRunner().invoke(app, ["drill", "schedule", "--at", "soon"]).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--profile", "none"]).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--format", "kubernetes"]).exit_code == 2
