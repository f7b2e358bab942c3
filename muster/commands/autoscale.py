"""`muster autoscale`."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from muster.commands.arguments import Json, Target, duration
from muster.commands.failures import EXIT_FAILED, reported
from muster.commands.output import print_json

_DEFAULT_TARGET = "127.0.0.1:50051"


@reported
def autoscale(
    config: Annotated[Path, typer.Option("--config", help="Settings file of the replicas that come and go.")],
    slots: Annotated[
        str, typer.Option("--slots", help="Addresses of theirs as host:port, joined by commas.")
    ],
    target: Target = _DEFAULT_TARGET,
    least: Annotated[int, typer.Option("--min", min=0, help="Replicas to have in any case.")] = 0,
    most: Annotated[
        int | None, typer.Option("--max", min=0, help="Replicas to have at most. Default: one a slot.")
    ] = None,
    out_above: Annotated[
        float,
        typer.Option("--out-above", help="Price above which one comes; at 1 the best plan pays no more."),
    ] = 0.3,
    in_below: Annotated[float, typer.Option("--in-below", help="Price below which one goes.")] = 0.05,
    out_after: Annotated[float, duration("--out-after", "For so long above.")] = 1_000.0,
    in_after: Annotated[float, duration("--in-after", "For so long below.")] = 30_000.0,
    cooldown: Annotated[float, duration("--cooldown", "No change for so long after one.")] = 5_000.0,
    logs: Annotated[Path, typer.Option("--logs", help="Folder for what they write.")] = Path("run/autoscale"),
    as_json: Json = False,
) -> None:
    """Starts and drains replicas of this machine by the price of ranking time, until it is interrupted.

    The replicas of --target are looked at and never touched; those in the slots are its own, and are drained
    at the end. Clients are given both lists: what does not run is passed over.
    """
    from muster.autoscale.command import autoscale as run
    from muster.autoscale.decision import ScalePolicy
    from muster.autoscale.local import LocalReplicas, LocalSettings
    from muster.autoscale.prices import Looks
    from muster.client.settings import parse_endpoints

    places, standing = parse_endpoints(slots), parse_endpoints(target)
    policy = ScalePolicy(
        replicas_min=least,
        replicas_max=len(places) if most is None else most,
        out_above=out_above,
        in_below=in_below,
        out_after_s=out_after / 1000,
        in_after_s=in_after / 1000,
        cooldown_s=cooldown / 1000,
    )
    problems = list(policy.problems())
    if policy.replicas_max > len(places):
        problems.append(f"{policy.replicas_max} replicas need as many --slots, there are {len(places)}")
    if problems:
        raise typer.BadParameter("; ".join(problems))
    if not config.is_file():
        raise typer.BadParameter(f"{config}: there is no such settings file")

    def tell(sentence: str) -> None:
        print(f"autoscale: {sentence}", file=sys.stderr if as_json else sys.stdout, flush=True)

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Looks() as looks, LocalReplicas(places, LocalSettings(config, logs), tell) as replicas:
        tell(f"looking at {', '.join(standing)}; up to {policy.replicas_max} replicas more")
        account = run(replicas, lambda joined: looks.units([*standing, *joined]), policy, tell, stop)
    if as_json:
        print_json(account.describe())
    else:
        tell(f"{account.added} added, {account.removed} taken away, {account.problems} problems")
    if account.problems:
        raise typer.Exit(EXIT_FAILED)
