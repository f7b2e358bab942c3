"""`muster experiment ...`: how many shoppers, which variant, what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.commands.arguments import Json
from muster.commands.failures import reported
from muster.commands.output import make_console, make_table, print_json
from muster.experiments import analysis
from muster.experiments.assignment import Experiment, ExperimentRefused

EXIT_DEVIATED, EXIT_INCONCLUSIVE = 10, 20

app = typer.Typer(help="Compare two rankings on shoppers.", no_args_is_help=True)
Shares = Annotated[
    str, typer.Option("--shares", metavar="NAME=SHARE,...", help="Variants, the control first; in sum 1.")
]


def _experiment(key: str, shares: str) -> Experiment:
    found: dict[str, float] = {}
    for part in shares.split(","):
        name, _, share = part.partition("=")
        try:
            number = float(share)
        except ValueError:
            raise ExperimentRefused(f"--shares: {part!r} is not NAME=SHARE") from None
        if name in found:
            raise ExperimentRefused(f"--shares: the variant {name!r} stands twice")
        found[name] = number
    return Experiment(key, found)


@app.command("plan")
@reported
def plan(
    rate: Annotated[float, typer.Option("--rate", help="Rate of the control, such as 0.03.")],
    change: Annotated[float, typer.Option("--change", help="Smallest difference worth finding, absolute.")],
    alpha: Annotated[float, typer.Option("--alpha", help="False alarms that are accepted.")] = 0.05,
    power: Annotated[float, typer.Option("--power", help="Chance to find such a difference.")] = 0.8,
    as_json: Json = False,
) -> None:
    """How many shoppers a comparison of two halves needs, looked at once."""
    needed = analysis.shoppers_needed(rate, change, alpha=alpha, power=power)
    if as_json:
        print_json({"shoppers": needed, "rate": rate, "change": change, "alpha": alpha, "power": power})
    else:
        print(f"{needed:,} shoppers in both halves together, looked at once; looking at any time needs more")


@app.command("assign")
@reported
def assign(
    key: Annotated[str, typer.Argument(help="The experiment's key.")],
    pseudonyms: Annotated[list[str], typer.Argument(help="Pseudonyms of shoppers.")],
    shares: Shares = "control=0.5,variant=0.5",
    as_json: Json = False,
) -> None:
    """Which variant each shopper gets."""
    experiment = _experiment(key, shares)
    found = {pseudonym: experiment.variant(pseudonym) for pseudonym in pseudonyms}
    if as_json:
        print_json(found)
        return
    for pseudonym, name in found.items():
        print(f"{pseudonym}\t{name}")


@app.command("mix")
@reported
def mix(
    key: Annotated[str, typer.Argument(help="The experiment's key.")],
    a: Annotated[Path, typer.Argument(help="One ranking, a TREC run file.")],
    b: Annotated[Path, typer.Argument(help="The other one.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL to write: experiment, query, order, team.")],
    places: Annotated[int, typer.Option("--places", min=1, max=1_000, help="Products of an answer.")] = 10,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Orders for each query.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the coins.")] = 0,
    as_json: Json = False,
) -> None:
    """Mixes two rankings by team draft; whoever shows an order notes it with the receipt_id of the answer."""
    from muster.experiments.interleaving import mixed
    from muster.products.runs import read_run

    _experiment(key, "a=0.5,b=0.5")
    rows = list(mixed(key, read_run(a), read_run(b), places=places, draws=draws, seed=seed))
    try:
        out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise ExperimentRefused(f"{out} cannot be written: {error}") from error
    queries = len({row["query"] for row in rows})
    if as_json:
        print_json({"orders": len(rows), "queries": queries})
    else:
        print(f"{out}: {len(rows):,} orders for {queries:,} queries")


@app.command("interleaved")
@reported
def interleaved(
    key: Annotated[str, typer.Argument(help="The experiment's key.")],
    shown: Annotated[Path, typer.Argument(help="What was shown: experiment, receipt_id, order, team.")],
    feedback: Annotated[Path, typer.Argument(help="Feedback as `muster feedback export` wrote it.")],
    kind: Annotated[list[str] | None, typer.Option("--kind", help="What counts; default: click.")] = None,
    as_json: Json = False,
) -> None:
    """Whose products were taken, a or b; exit code 10: the first places were not shared by a fair coin."""
    from muster.experiments.interleaving import KINDS, preferred, read_shown
    from muster.insight.intervals import wilson

    kinds = kind or ["click"]
    if not set(kinds) <= set(KINDS):
        raise ExperimentRefused(f"--kind must be one of {', '.join(KINDS)}")
    found = preferred(read_shown(shown, key), feedback, kinds)
    decided = found.wins_a + found.wins_b
    told: dict[str, Any] = {
        "answers": found.answers,
        "answers_taken": found.taken,
        "first_places_p": found.first_p,
        "first_places_broken": found.broken,
    }
    if found.broken:
        told |= {"verdict": "deviated", "reason": "the first places were not shared by a fair coin"}
    elif not decided:
        told |= {"verdict": "inconclusive", "reason": "no shopper took more of one ranking than of the other"}
    else:
        low, high = wilson(found.wins_b, decided)
        told |= {"wins_a": found.wins_a, "wins_b": found.wins_b, "ties": found.ties}
        told |= {"share_b": found.wins_b / decided, "low": low, "high": high, "p": found.p}
    if as_json:
        print_json(told)
    else:
        _show_preference(told)
    if "verdict" in told:
        raise typer.Exit(EXIT_DEVIATED if found.broken else EXIT_INCONCLUSIVE)


def _show_preference(told: dict[str, Any]) -> None:
    print(f"{told['answers']:,} answers shown, {told['answers_taken']:,} with something taken")
    print(f"first places shared by a coin: p = {told['first_places_p']:.4g}")
    if "verdict" in told:
        print(f"{told['verdict']}: {told['reason']}")
        return
    table = make_table("shoppers for a", "for b", "for neither", "share of b", "95 %", "p")
    bounds = f"[{told['low']:.3f}, {told['high']:.3f}]"
    numbers = (f"{told[name]:,}" for name in ("wins_a", "wins_b", "ties"))
    table.add_row(*numbers, f"{told['share_b']:.3f}", bounds, f"{told['p']:.4g}")
    make_console().print(table)
    print("p and bounds are of one look at the end; one shopper counts once")


@app.command("report")
@reported
def report(
    key: Annotated[str, typer.Argument(help="The experiment's key.")],
    file: Annotated[
        Path,
        typer.Argument(help="Exposure log, JSONL: experiment, shopper, variant, success."),
    ],
    shares: Shares = "control=0.5,variant=0.5",
    alpha: Annotated[float, typer.Option("--alpha", help="False alarms that are accepted.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Rates of the variants, with bounds that hold at any time; exit code 10: broken sample ratio."""
    experiment = _experiment(key, shares)
    rates = _rates(experiment, file)
    if any(trials == 0 for trials, _ in rates.values()):
        if as_json:
            print_json({"verdict": "inconclusive", "reason": "a variant has no shopper"})
        else:
            print("inconclusive: a variant has no shopper")
        raise typer.Exit(EXIT_INCONCLUSIVE)
    ratio_p = analysis.sample_ratio_p(
        {name: trials for name, (trials, _) in rates.items()}, experiment.shares
    )
    broken = ratio_p < analysis.SAMPLE_RATIO_ALPHA
    control, *others = (analysis.Rate(*rates[name]) for name in experiment.shares)
    # Each of several variants is held against the control at its part of alpha (Bonferroni).
    differences = [analysis.always_valid(control, other, alpha=alpha / len(others)) for other in others]
    rows: list[dict[str, Any]] = []
    for name, difference in zip(experiment.shares, [None, *differences], strict=True):
        trials, successes = rates[name]
        rows.append({"variant": name, "shoppers": trials, "successes": successes, "rate": successes / trials})
        if difference is not None and not broken:
            rows[-1] |= {"difference": difference.value, "low": difference.low, "high": difference.high}
    if as_json:
        print_json({"sample_ratio_p": ratio_p, "sample_ratio_broken": broken, "variants": rows})
    else:
        _show(rows, ratio_p, broken)
    if broken:
        raise typer.Exit(EXIT_DEVIATED)


def _show(rows: list[dict[str, Any]], ratio_p: float, broken: bool) -> None:
    table = make_table("variant", "shoppers", "rate", "difference to the control")
    for row in rows:
        told = ""
        if "difference" in row:
            told = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        table.add_row(row["variant"], f"{row['shoppers']:,}", f"{row['rate']:.4f}", told)
    make_console().print(table)
    print(f"sample ratio: p = {ratio_p:.4g}")
    if broken:
        print("the shares are not those that were planned: find out why before reading the rates")


def _rates(experiment: Experiment, file: Path) -> dict[str, tuple[int, int]]:
    """Shoppers and successes of each variant; a shopper counts once, as a success after one success."""
    seen: dict[str, tuple[str, bool]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentRefused(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("success"), bool):
            raise ExperimentRefused(f"{file}, line {number}: is no exposure with a success of true or false")
        if row.get("experiment") != experiment.key:
            continue
        shopper, variant = row.get("shopper"), row.get("variant")
        if not isinstance(shopper, str) or not isinstance(variant, str) or variant not in experiment.shares:
            raise ExperimentRefused(
                f"{file}, line {number}: names no shopper, or a variant that is not planned"
            )
        before = seen.get(shopper, (variant, False))
        if before[0] != variant:
            raise ExperimentRefused(f"{file}, line {number}: a shopper of one variant has another here")
        seen[shopper] = (variant, before[1] or row["success"])
    rates = dict.fromkeys(experiment.shares, (0, 0))
    for variant, success in seen.values():
        trials, successes = rates[variant]
        rates[variant] = (trials + 1, successes + success)
    return rates
