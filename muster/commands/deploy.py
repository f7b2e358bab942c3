"""`muster deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.commands.arguments import DEFAULT_TARGET, Json, Target, duration
from muster.commands.failures import reported
from muster.commands.output import print_json


@reported
def deploy(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="Folder of the bundle, the same path on every machine."),
    ] = None,
    target: Target = DEFAULT_TARGET,
    shadow_share: Annotated[
        float, typer.Option("--shadow-share", min=0.0, max=1.0, help="Of the requests that are compared.")
    ] = 0.2,
    canary_share: Annotated[
        float, typer.Option("--canary-share", min=0.0, max=1.0, help="Of the requests that it serves first.")
    ] = 0.1,
    min_requests: Annotated[
        int, typer.Option("--min-requests", min=1, help="To be answered in each trial before it goes on.")
    ] = 200,
    agreement_min: Annotated[
        float, typer.Option("--agreement-min", min=0.0, max=1.0, help="Least agreement with the order now.")
    ] = 0.5,
    patience: Annotated[
        float, duration("--patience", "Longest wait in one phase; then it is rolled back.")
    ] = 600_000.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Roll back the deploy under way.")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Serve the bundle before the last deploy again, at once.")
    ] = False,
    unload: Annotated[
        bool, typer.Option("--unload", help="Let go of the bundle before the last deploy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Moves every replica to another bundle: load, compare, serve a share, change over; or back by itself.

    Interrupted, the same command goes on where it stopped. Exit code 0: done, 10: rolled back.
    """
    from muster.deploy.command import Wish, run
    from muster.deploy.judge import Limits
    from muster.deploy.steps import Options

    if sum((bundle is not None, abort, roll_back, unload)) != 1:
        raise typer.BadParameter("give one of BUNDLE, --abort, --roll-back and --unload")
    wish = Wish(
        target=target,
        bundle=bundle,
        abort=abort,
        back=roll_back,
        unload=unload,
        dry_run=dry_run,
        options=Options(shadow_share=shadow_share, canary_share=canary_share),
        limits=Limits(min_requests=min_requests, agreement_min=agreement_min),
        patience_s=patience / 1000,
    )
    raise typer.Exit(run(wish, show=print_json if as_json else None))
