"""The front door: `muster COMMAND`. The commands are in `muster/commands`; any other room is loaded only when
a command needs it.

Exit codes: 0 done, 1 unexpected failure, 2 bad usage or input, 3 service not reachable or not available, 4
deadline passed; drills and benches: 0 held or measured, 10 deviated, 20 inconclusive. Results go to standard
output, everything else to standard error.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from muster.commands import (
    bundle,
    catalogue,
    console,
    data,
    deploy,
    drills,
    replicas,
    search,
    serve,
    training,
)
from muster.commands.arguments import PASS_ON
from muster.commands.failures import complain

app = typer.Typer(
    name="muster",
    help="Ranks products within the caller's deadline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, group in (
    ("catalogue", catalogue.app),
    ("data", data.app),
    ("bundle", bundle.app),
    ("drill", drills.app),
    ("bench", drills.bench),
):
    app.add_typer(group, name=name)
for command in (
    serve.serve,
    search.search,
    replicas.status,
    replicas.transfer,
    deploy.deploy,
    console.console,
):
    app.command()(command)
for passing in (training.evaluate, training.fairness, training.train, training.label, drills.load):
    app.command(context_settings=PASS_ON)(passing)
app.command()(drills.demo)


@app.callback(invoke_without_command=True)
def front_door(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
) -> None:
    """Ranks products within the caller's deadline."""
    if version:
        print(f"muster {installed_version()}")
        raise typer.Exit(0)


def installed_version() -> str:
    """Version of the installed package; of the checkout where none is installed."""
    try:
        return metadata.version("muster")
    except metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def main() -> None:
    """Entry point of the command `muster`."""
    try:
        app()
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
