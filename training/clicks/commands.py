"""`muster clicks`: bias, judgements, off-policy. Exit codes: 0 done, 2 bad input, 20 inconclusive."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from training.clicks import browsing, judgements, offpolicy, propensity
from training.clicks.answers import as_answers
from training.clicks.cascade import fit_cascade
from training.clicks.impressions import ClicksRefused, Floats, Impressions, Inconclusive, read_impressions
from training.measure import Estimate

EXIT_USAGE, EXIT_INCONCLUSIVE = 2, 20
CHOOSE = "choose"
METHODS = (CHOOSE, *sorted(propensity.METHODS), "cascade", "regression")
_OF_MODEL = {"position": "interventions"}


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
    bias.add_argument("--rounds", type=_rounds, default=100, help="resamples of the intervals, 10 or more")
    write = commands.add_parser("judgements", help="gains for training, position bias taken out")
    write.add_argument("--out", type=Path, required=True, help="labels file to write, .parquet")
    write.add_argument("--clip", type=float, default=judgements.CLIP, help="least examination divided by")
    write.add_argument("--steps", type=int, default=judgements.STEPS, help="of the gains, from 0 to 1")
    off = commands.add_parser("off-policy", help="clicks that another order would get")
    off.add_argument("--run", type=Path, required=True, help="the order, a TREC run file")
    off.add_argument("--clip", type=float, default=20.0, help="greatest weight")
    for command in (bias, write, off):
        command.add_argument("file", type=Path, help="impressions: .parquet, .csv or .jsonl")
        command.add_argument("--seed", type=int, default=0, help="of all that is drawn")
        command.add_argument("--json", action="store_true", help="print JSON alone")
    for command in (bias, write):
        command.add_argument(
            "--method",
            choices=METHODS,
            default=CHOOSE,
            help="default: the best model's",
        )
        command.add_argument(
            "--features", default="", metavar="COLUMN,...", help="columns that say what attracts"
        )
    return options


def _rounds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 10")
    return int(text)


def _read(given: argparse.Namespace) -> Impressions:
    features = [name for name in given.features.split(",") if name]
    if given.method == "regression" and not features:
        raise ClicksRefused("--method regression needs --features: columns of numbers that say what attracts")
    return read_impressions(given.file, features)


def _chosen(given: argparse.Namespace, shown: Impressions) -> tuple[str, browsing.Comparison | None]:
    """The method asked for, or the one of the model that foretells clicks best."""
    if given.method != CHOOSE:
        return given.method, None
    with Progress(console=Console(stderr=True), transient=True, disable=given.json) as bar:
        task = bar.add_task("comparing models", total=None)
        found = browsing.compare(
            shown,
            features=shown.pair_features(),
            seed=given.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return _OF_MODEL.get(found.chosen, found.chosen), found


@dataclass(frozen=True)
class _Bias:
    """What `bias` tells. cascade: its two shares, where it is the method."""

    propensities: propensity.Propensities
    cascade: dict[str, Estimate]


def _estimated(shown: Impressions, method: str, rounds: int, seed: int) -> _Bias:
    if method == "cascade":
        found = browsing.estimate_cascade(shown, rounds=rounds, seed=seed)
        return _Bias(found.propensities, {"looks on": found.continues, "satisfied": found.satisfied})
    features = shown.pair_features()
    if method == "regression" and features is not None:
        return _Bias(browsing.estimate_regression(shown, features, rounds=rounds, seed=seed), {})
    return _Bias(propensity.estimate(shown, method=method, rounds=rounds, seed=seed), {})


def _bias(given: argparse.Namespace) -> None:
    shown = _read(given)
    method, compared = _chosen(given, shown)
    bias = _estimated(shown, method, given.rounds, given.seed)
    found = bias.propensities
    rows: list[dict[str, Any]] = [
        {"position": at, "examined": float(value), "low": float(low), "high": float(high)}
        for at, (value, low, high) in enumerate(
            zip(found.examined, found.low, found.high, strict=True), start=1
        )
    ]
    if given.json:
        told: dict[str, Any] = {"method": found.method, "positions": rows}
        if bias.cascade:
            told["cascade"] = {name.replace(" ", "_"): asdict(one) for name, one in bias.cascade.items()}
        if compared is not None:
            told |= {"chosen": compared.chosen, "gaps": compared.gaps}
            told["models"] = [asdict(one) for one in compared.models]
        print(json.dumps(told, indent=2))
        return
    table = Table("position", "examined", "95 %")
    for row in rows:
        table.add_row(
            str(row["position"]), f"{row['examined']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]"
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    for name, one in bias.cascade.items():
        print(f"{name}: {_with_bounds(one)}")
    if compared is not None:
        _show_models(console, compared)


def _with_bounds(one: Estimate) -> str:
    return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _show_models(console: Console, compared: browsing.Comparison) -> None:
    names = [f"model {one.name}" for one in compared.models]
    by_place = Table("position", *names, title="perplexity of answers held out")
    for at in range(len(compared.models[0].by_place)):
        by_place.add_row(str(at + 1), *(_with_bounds(one.by_place[at]) for one in compared.models))
    by_place.add_row("all", *(_with_bounds(one.perplexity) for one in compared.models))
    console.print(by_place)
    table = Table("model", f"bits an answer saved over {browsing.SIMPLEST}")
    for one in compared.models:
        if one.name != browsing.SIMPLEST:
            table.add_row(one.name, f"{one.gain.mean:+.4f} [{one.gain.low:+.4f}, {one.gain.high:+.4f}]")
    console.print(table)
    print(f"chosen: {compared.chosen}")
    if compared.gaps:
        print(f"{compared.gaps:,} answers lack a position and were not compared")


def _gains(given: argparse.Namespace, shown: Impressions, method: str) -> Floats:
    """What attracts in each pair, float64 [pairs]."""
    if method == "cascade":
        answers = as_answers(shown)
        even = np.ones(len(answers))
        propensity.by_interventions(propensity.count(shown))
        return fit_cascade(answers, even).attracts
    features = shown.pair_features()
    if method == "regression" and features is not None:
        answers = as_answers(shown)
        examined = browsing.fit_regression(answers, np.ones(len(answers)), features, seed=given.seed).examined
    else:
        examined = propensity.METHODS[method](propensity.count(shown))
    return judgements.gains(shown, examined, clip=given.clip)


def _judgements(given: argparse.Namespace) -> None:
    shown = _read(given)
    method, _ = _chosen(given, shown)
    gain = judgements.graded(shown, _gains(given, shown, method), given.steps)
    try:
        rows = judgements.write_judgements(given.out, shown, gain)
    except OSError as error:
        raise ClicksRefused(f"{given.out} cannot be written: {error}") from error
    targets = judgements.targets_of(gain)
    if given.json:
        print(json.dumps({"rows": rows, "method": method, "targets": targets}))
        return
    print(f"{rows:,} judgements in {given.out}, by the method {method}. In the recipe of `muster train`:")
    written = ", ".join(f'"{name}" = {value}' for name, value in targets.items())
    print(f"targets = {{ {written} }}")


def _off_policy(given: argparse.Namespace) -> None:
    shown = read_impressions(given.file)
    target = offpolicy.places_in(given.run, shown, shown.places)
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
