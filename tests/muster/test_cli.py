"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.muster.commands.command_line import muster

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_projects() -> None:
    assert muster("--version").stdout == "muster 0.1.0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("search", "tea", "--deadline", "50"),
        ("search", "tea", "--attribute", "color"),
        ("search", "tea", "--target", "nonsense"),
        ("search", "tea", "-n", "-3"),
        ("unknown",),
        ("data", "get", "unknown"),
        ("drill", "run", "unknown"),
        ("bench", "unknown"),
        ("bench", "curve", "--loads", "0"),
        ("serve", "--set", "nonsense"),
        ("catalogue", "load", "no-such-file.csv"),
        ("catalogue", "load", str(ROOT / "pyproject.toml")),
        ("bundle", "verify", str(ROOT / "tests")),
        ("bundle", "card", "no-such-folder"),
    ],
)
def test_bad_usage_exits_2_and_says_why(arguments: tuple[str, ...]) -> None:
    done = muster(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr and "Traceback" not in done.stderr


def test_a_query_that_is_no_utf8_is_bad_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", "search", b"caf\xe9"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"query" in done.stderr and b"Traceback" not in done.stderr


def test_help_loads_no_other_room() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom muster import cli\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "rooms = {'server', 'rankcore', 'training', 'drills', 'grpc'}\n"
        "assert not rooms & set(sys.modules), rooms & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=True)
