"""The front door: `muster COMMAND`. The commands are in `muster/commands`; any other room is loaded only when
a command needs it.

Exit codes: 0 done, 1 unexpected failure, 2 bad usage or input, 3 service not reachable or not available, 4
deadline passed; drills and benches: 0 held or measured, 10 deviated, 20 inconclusive; feeds: 10 refused.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from muster.commands import (
    alerts,
    audit,
    autoscale,
    bundle,
    catalogue,
    console,
    data,
    deploy,
    drills,
    experiment,
    feedback,
    insight,
    privacy,
    recommend,
    replicas,
    search,
    serve,
    token,
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
    ("alerts", alerts.app),
    ("catalogue", catalogue.app),
    ("data", data.app),
    ("feedback", feedback.app),
    ("privacy", privacy.app),
    ("bundle", bundle.app),
    ("drill", drills.app),
    ("experiment", experiment.app),
    ("bench", drills.bench),
    ("token", token.app),
    ("audit", audit.app),
):
    app.add_typer(group, name=name)
for command in (
    serve.serve,
    search.search,
    recommend.recommend,
    replicas.status,
    replicas.transfer,
    deploy.deploy,
    autoscale.autoscale,
    console.console,
    insight.insight,
):
    app.command()(command)
for passing in (
    training.evaluate,
    training.fairness,
    training.train,
    training.label,
    training.clicks,
    drills.load,
):
    app.command(context_settings=PASS_ON)(passing)
app.command()(drills.demo)


@app.callback(invoke_without_command=True)
def front_door(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Authorities of the replicas' certificates, PEM: encrypts every call."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="The client's own certificate, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="The key of --tls-cert, PEM.")] = None,
    tls_server_name: Annotated[
        str | None, typer.Option("--tls-server-name", help="Name that every replica's certificate holds.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token that is sent with each call.")
    ] = None,
) -> None:
    """Ranks products within the caller's deadline."""
    # Rooms that a command starts, as drills do, then have them too.
    for variable, value in (
        ("MUSTER_TLS_CA", tls_ca),
        ("MUSTER_TLS_CERT", tls_cert),
        ("MUSTER_TLS_KEY", tls_key),
        ("MUSTER_TLS_SERVER_NAME", tls_server_name),
        ("MUSTER_TOKEN_FILE", token_file),
    ):
        if value is not None:
            os.environ[variable] = str(value)
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
