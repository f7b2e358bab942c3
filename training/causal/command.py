"""`muster effect`: exit codes 0 done, 2 bad input, 10 a refutation failed, 20 inconclusive."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from training.causal.effect import Effect, EffectUnknown, Floats, average_effect, refutations

EXIT_USAGE, EXIT_DEVIATED, EXIT_INCONCLUSIVE = 2, 10, 20


class RowsRefused(ValueError):
    """The file cannot be used."""


def main(argv: Sequence[str]) -> int:
    """Runs one command line. Returns: the exit code."""
    options = argparse.ArgumentParser(
        prog="muster effect", description="What a treatment does to an outcome."
    )
    options.add_argument("file", type=Path, help="rows: .parquet or .csv")
    options.add_argument("--treatment", required=True, help="column of 0 and 1")
    options.add_argument("--outcome", required=True, help="column of 0 and 1")
    options.add_argument(
        "--covariates", required=True, help="columns of numbers that drive both, with commas"
    )
    options.add_argument("--seed", type=int, default=0, help="of folds and refutations")
    options.add_argument("--json", action="store_true", help="print JSON alone")
    given = options.parse_args(list(argv))
    try:
        covariates = np.column_stack([_column(given.file, name) for name in given.covariates.split(",")])
        treated, outcome = (_binary(given.file, name) for name in (given.treatment, given.outcome))
    except RowsRefused as error:
        print(f"muster effect: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        effect = average_effect(covariates, treated, outcome, seed=given.seed)
        checks = refutations(covariates, treated, outcome, seed=given.seed)
    except EffectUnknown as error:
        print(
            json.dumps({"verdict": "inconclusive", "reason": str(error)})
            if given.json
            else f"inconclusive: {error}"
        )
        return EXIT_INCONCLUSIVE
    failed = refuted(effect, checks)
    plain = float(outcome[treated == 1].mean() - outcome[treated == 0].mean())
    if given.json:
        told = {name: asdict(check) for name, check in checks.items()}
        found = {"effect": asdict(effect), "plain": plain, "refutations": told, "failed": failed}
        print(json.dumps(found, indent=2))
    else:
        _show(effect, plain, checks, failed)
    return EXIT_DEVIATED if failed else 0


def refuted(effect: Effect, checks: dict[str, Effect]) -> list[str]:
    """Names of the refutations that failed."""
    return [
        name
        for name, check in checks.items()
        if (
            not check.low <= 0 <= check.high
            if name == "placebo"
            else not effect.low <= check.value <= effect.high
        )
    ]


def _show(effect: Effect, plain: float, checks: dict[str, Effect], failed: list[str]) -> None:
    table = Table("estimate", "effect", "95 %", "")
    table.add_row("plain difference", f"{plain:+.4f}", "", "not an effect")
    for name, value in {"doubly robust": effect, **checks}.items():
        told = "" if value is effect else "failed" if name in failed else "held"
        table.add_row(name, f"{value.value:+.4f}", f"[{value.low:+.4f}, {value.high:+.4f}]", told)
    Console(highlight=False, markup=False).print(table)


def _binary(path: Path, name: str) -> Floats:
    values = _column(path, name)
    if not np.isin(values, (0, 1)).all():
        raise RowsRefused(f"{path}: the column {name} must hold 0 and 1 alone")
    return values


def _column(path: Path, name: str) -> Floats:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    readers = {".parquet": pa.parquet.read_table, ".csv": pa.csv.read_csv}
    if path.suffix not in readers:
        raise RowsRefused(f"{path}: rows are read from .parquet or .csv")
    try:
        column = readers[path.suffix](str(path))[name]
        values = np.array([float(value) for value in column.to_pylist()], dtype=np.float64)
    except KeyError:
        raise RowsRefused(f"{path} has no column {name}") from None
    except (OSError, pa.ArrowException) as error:
        raise RowsRefused(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except (TypeError, ValueError) as error:
        raise RowsRefused(f"{path}: the column {name} must hold numbers alone") from error
    if not np.isfinite(values).all():
        raise RowsRefused(f"{path}: the column {name} must hold finite numbers alone")
    return values
