"""`muster drill ...`, `muster bench ...` and `muster demo`: what the room of drills shows and measures."""

from __future__ import annotations

from typing import Annotated

import typer

from muster.commands.arguments import PASS_ON, Json
from muster.commands.failures import MissingRoomError, reported, room
from muster.commands.output import make_console, make_table, print_json

app = typer.Typer(help="Rehearses failures.", no_args_is_help=True)
bench = typer.Typer(help="Measures a bundle under load.", no_args_is_help=True)


@app.command("list")
@reported
def drill_list(as_json: Json = False) -> None:
    """Lists the drills and what each one claims."""
    book = room("drills.book", "Run it from the project's folder")
    if as_json:
        print_json([drill.describe() for drill in book.DRILLS])
        return
    table = make_table("drill", "injects", "must stay true")
    for drill in book.DRILLS:
        table.add_row(drill.name, drill.injection, drill.hypothesis)
    make_console().print(table)


@app.command("run", context_settings=PASS_ON)
@reported
def drill_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the drill; what follows goes to it.")],
) -> None:
    """Runs one drill: NAME [--runs N] [--json] ...; exit code 0 held, 10 deviated, 20 inconclusive."""
    if name in ("-h", "--help"):
        print(context.get_help())
        raise typer.Exit(0)
    book = room("drills.book", "Run it from the project's folder")
    try:
        drill = book.find(name)
    except book.UnknownDrill as error:
        raise typer.BadParameter(str(error)) from error
    try:
        code = drill.run(list(context.args))
    except ImportError as error:
        raise MissingRoomError(f"the drill cannot be loaded ({error}). Build it with `make build`") from error
    raise typer.Exit(code)


@bench.command("curve", context_settings=PASS_ON)
@reported
def bench_curve(context: typer.Context) -> None:
    """Measures the quality served by deadline and load: [--seconds N] [--out FILE.png]; --help lists all."""
    module = room("drills.curve", "Build it with `make build`")
    raise typer.Exit(module.main(list(context.args)))


@reported
def demo(as_json: Json = False) -> None:
    """Shows everything: a primary, two standbys, real queries at several deadlines, the primary killed."""
    module = room("drills.demo", "Build it with `make build`")
    raise typer.Exit(module.main(as_json) or 0)
