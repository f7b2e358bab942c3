"""What the commands take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from muster import durations

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command that gives its whole command line to another room."""

DEFAULT_TARGET = "127.0.0.1:50051"


def parse_duration_ms(text: str | float) -> float:
    """Milliseconds of a duration such as 50ms, 2s, 1.5s, 250us or 1m.

    Raises: typer.BadParameter unless it is a number above 0 with a unit.
    """
    if isinstance(text, int | float):
        return float(text)
    try:
        return durations.parse_duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def duration(name: str, help: str) -> Any:
    return typer.Option(name, help=help, parser=parse_duration_ms, metavar="DURATION")


Target = Annotated[
    str,
    typer.Option(
        "--target",
        help="Replicas as host:port, joined by commas.",
        envvar="MUSTER_TARGET",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or list on standard output.")]
