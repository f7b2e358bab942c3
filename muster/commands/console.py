"""`muster console`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from muster.commands.arguments import DEFAULT_TARGET, Target
from muster.commands.failures import EXIT_USAGE, complain, reported, room


@reported
def console(
    target: Target = DEFAULT_TARGET,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the page is; port 0: any free one.")
    ] = "127.0.0.1:8461",
    metrics: Annotated[
        str,
        typer.Option("--metrics", metavar="HOST:PORT,...", help="The replicas' metrics (`metrics.listen`)."),
    ] = "",
    bundles: Annotated[
        Path, typer.Option("--bundles", metavar="DIR", help="Folder whose subfolders are bundles.")
    ] = Path("models"),
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST[:PORT]", help="A further name it is reached by."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen off loopback; MUSTER_CONSOLE_TOKEN must be set.")
    ] = False,
) -> None:
    """A page to search, watch and drill; MUSTER_CONSOLE_TOKEN, where it is set, is asked for."""
    from muster.console.settings import TOKEN_VARIABLE, SettingsError, make_settings

    try:
        settings = make_settings(
            listen=listen,
            target=target,
            metrics=metrics,
            bundles=bundles,
            names=name or (),
            # The drills and deploys that the console starts do not need it.
            token=os.environ.pop(TOKEN_VARIABLE, ""),
            allow_remote=allow_remote,
        )
    except SettingsError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from error
    app = room("muster.console.app", "Install what the console needs: pip install 'muster[console]'")
    try:
        app.serve(settings, ready=lambda address: print(f"console: {address}", file=sys.stderr, flush=True))
    except OSError as error:
        complain(f"cannot listen on {listen}: {error.strerror or error}; choose another with --listen")
        raise typer.Exit(EXIT_USAGE) from error
