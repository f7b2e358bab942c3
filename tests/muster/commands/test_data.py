"""`muster data`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from muster import cli
from tests.muster.commands.command_line import muster


def test_nothing_is_downloaded_without_a_yes(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["data", "get", "esci", "--out", str(tmp_path / "esci")], input="n\n")
    assert done.exit_code == 2
    assert (
        "Apache-2.0" in done.stderr
        and "4a735b693b4a" in done.stderr
        and "nothing was downloaded" in done.stderr
    )
    assert not (tmp_path / "esci").exists()
    unattended = CliRunner().invoke(cli.app, ["data", "get", "wands", "--out", str(tmp_path / "wands")])
    assert unattended.exit_code == 2 and "--yes" in unattended.stderr


def test_a_synthetic_catalogue_can_be_written_and_read(tmp_path: Path) -> None:
    done = muster("data", "synthetic", str(tmp_path / "made"), "--products", "50", "--queries", "5", "--json")
    assert json.loads(done.stdout)["products"] == 50
    assert muster("catalogue", "load", str(tmp_path / "made"), "--check").exit_code == 0
