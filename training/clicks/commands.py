"""`muster clicks`: bias, judgements, off-policy. Exit codes: 0 done, 2 bad input, 20 inconclusive."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.clicks import judgements, offpolicy, propensity
from training.clicks.impressions import ClicksRefused, Inconclusive, read_impressions

EXIT_USAGE, EXIT_INCONCLUSIVE = 2, 20


def main(argv: Sequence[str]) -> int:
    """Runs one command line. Returns: the exit code."""
    given = _options().parse_args(list(argv))
    try:
        work = {"bias": _bias, "judgements": _judgements, "off-policy": _off_policy}[given.command]
        work(given)
    except ClicksRefused as error:
        print(f"muster clicks: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Inconclusive as error:
        if given.json:
            print(json.dumps({"verdict": "inconclusive", "reason": str(error)}))
        else:
            print(f"inconclusive: {error}")
        return EXIT_INCONCLUSIVE
    return 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="muster clicks", description="Learn from clicks.")
    commands = options.add_subparsers(dest="command", required=True)
    bias = commands.add_parser("bias", help="how much each position is looked at")
    write = commands.add_parser("judgements", help="gains for training, position bias taken out")
    write.add_argument("--out", type=Path, required=True, help="labels file to write, .parquet")
    write.add_argument("--clip", type=float, default=judgements.CLIP, help="least examination divided by")
    off = commands.add_parser("off-policy", help="clicks that another order would get")
    off.add_argument("--run", type=Path, required=True, help="the order, a TREC run file")
    off.add_argument("--clip", type=float, default=20.0, help="greatest weight")
    for command in (bias, write, off):
        command.add_argument("file", type=Path, help="impressions: .parquet, .csv or .jsonl")
        command.add_argument("--seed", type=int, default=0, help="of all that is drawn")
        command.add_argument("--json", action="store_true", help="print JSON alone")
    for command in (bias, write):
        command.add_argument("--method", choices=sorted(propensity.METHODS), default="interventions")
    return options


def _bias(given: argparse.Namespace) -> None:
    found = propensity.estimate(read_impressions(given.file), method=given.method, seed=given.seed)
    rows = [
        {"position": at, "examined": float(value), "low": float(low), "high": float(high)}
        for at, (value, low, high) in enumerate(
            zip(found.examined, found.low, found.high, strict=True), start=1
        )
    ]
    if given.json:
        print(json.dumps({"method": found.method, "positions": rows}, indent=2))
        return
    table = Table("position", "examined", "95 %")
    for row in rows:
        table.add_row(
            str(row["position"]), f"{row['examined']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"
        )
    Console(highlight=False, markup=False).print(table)


def _judgements(given: argparse.Namespace) -> None:
    shown = read_impressions(given.file)
    examined = propensity.METHODS[given.method](propensity.count(shown))
    try:
        rows = judgements.write_judgements(
            given.out, shown, judgements.gains(shown, examined, clip=given.clip)
        )
    except OSError as error:
        raise ClicksRefused(f"{given.out} cannot be written: {error}") from error
    print(json.dumps({"rows": rows}) if given.json else f"{rows:,} judgements in {given.out}")


def _off_policy(given: argparse.Namespace) -> None:
    shown = read_impressions(given.file)
    target = offpolicy.read_run(given.run, shown, shown.places)
    found = offpolicy.estimate(shown, target, clip=given.clip, seed=given.seed)
    if given.json:
        print(json.dumps(asdict(found), indent=2))
        return
    table = Table("clicks an answer", "value", "95 %")
    for name, value in {"as logged": found.logged, **found.estimates}.items():
        table.add_row(name, f"{value.value:.4f}", f"[{value.low:.4f}, {value.high:.4f}]")
    Console(highlight=False, markup=False).print(table)
    print(
        f"effective sample {found.sample:,.0f}, places shown {found.supported:.1%}, cut {found.clipped:.1%}"
    )
