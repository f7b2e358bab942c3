"""`muster autoscale`: what it refuses, and a whole run by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.muster.commands.command_line import muster


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slots", "127.0.0.1:1", "--max", "2"), "need as many --slots"),
        (("--slots", "127.0.0.1:1", "--min", "2"), "must be 0 to the most"),
        (("--slots", "127.0.0.1:1", "--out-above", "0.05"), "would come and go"),
        (("--slots", "127.0.0.1:1", "--in-after", "10ms"), "must not go sooner"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    config = tmp_path / "replica.toml"
    config.touch()
    done = muster("autoscale", "--config", str(config), *arguments, COLUMNS="300")
    assert done.exit_code == 2 and said in done.stderr


def test_a_settings_file_must_be_there(tmp_path: Path) -> None:
    done = muster("autoscale", "--config", str(tmp_path / "none.toml"), "--slots", "a:1", COLUMNS="300")
    assert done.exit_code == 2 and "no such settings file" in done.stderr


def test_it_runs_until_it_is_asked_to_end_and_gives_its_account(tmp_path: Path) -> None:
    config = tmp_path / "replica.toml"
    config.touch()
    command = [sys.executable, "-m", "muster.cli", "autoscale", "--json", "--config", str(config)]
    command += ["--slots", "127.0.0.1:1", "--target", "127.0.0.1:1", "--logs", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        assert "looking at 127.0.0.1:1" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        account = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert account == {"added": 0, "removed": 0, "most": 0, "problems": 0}
