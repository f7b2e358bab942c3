"""`muster serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.commands.failures import reported, room


@reported
def serve(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file, TOML.")] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", help="host:port; port 0 takes a free one.")
    ] = None,
    replica: Annotated[str | None, typer.Option("--replica", help="Name of the replica.")] = None,
    bundle: Annotated[str | None, typer.Option("--bundle", help="Folder of the model bundle.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Folder of log and generations.")] = None,
    port_file: Annotated[
        str | None, typer.Option("--port-file", help="File that receives host:port once the replica listens.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, lease.ttl_ms=800."),
    ] = None,
) -> None:
    """Runs one replica until SIGTERM or SIGINT."""
    overrides: dict[str, str | None] = {
        "replica": replica,
        "listen": listen,
        "bundle": bundle,
        "data_dir": data_dir,
        "port_file": port_file,
    }
    for assignment in settings or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"write --set NAME=VALUE, not {assignment!r}")
        overrides[name] = value
    lifecycle = room("server.lifecycle", "Build it with `make build`")
    raise typer.Exit(lifecycle.serve(config, overrides))
