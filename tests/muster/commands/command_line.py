"""`muster ...` in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from muster import cli


def muster(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(
        cli.app, list(arguments), env={"COLUMNS": "120", "MUSTER_TARGET": None, **environment}
    )
