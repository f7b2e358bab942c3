"""`muster insight`: what shoppers did, as a page, as JSON and as tables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.commands.arguments import Json
from muster.commands.failures import EXIT_USAGE, complain, reported, room
from muster.commands.output import make_console, make_table, print_json, progress_bar

if TYPE_CHECKING:
    from muster.insight.analysis import Insight
    from muster.insight.reading import Reader

_CATALOGUE = "catalogue.sqlite3"


@reported
def insight(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Data folders, addresses of stores, exports, and event files: .parquet, .csv, .tsv, .jsonl.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("insight.html"),
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FOLDER", help="Also write each table as Parquet.")
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Look at made-up shoppers.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is drawn.")] = 0,
    products: Annotated[
        Path | None, typer.Option("--products", help="Product file, for the words of groups of shoppers.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="Name of a column in event files."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="THEIRS=OURS", help="Name of a kind in event files.")
    ] = None,
    by_chance: Annotated[
        list[str] | None,
        typer.Option("--by-chance", metavar="KEY", help="An experiment that drew the tier of its answers."),
    ] = None,
    least: Annotated[int, typer.Option("--least", help="People that a group needs to be shown.")] = 10,
    as_json: Json = False,
) -> None:
    """What shoppers did: funnels, positions, tiers, queries, groups, returns and trends, with intervals."""
    from muster.insight.analysis import Choice, analyse, write_parquet
    from muster.insight.page import render
    from muster.insight.reading import Mapped, Reader

    if bool(sources) == simulated:
        complain("name what to read, or --simulated: `muster insight DATA_DIR`")
        raise typer.Exit(EXIT_USAGE)
    mapped = Mapped(_pairs("--column", column), _pairs("--kind", kind))
    drawn, texts = list(by_chance or ()), _texts(products) if products else {}
    choice = Choice(least, drawn, texts, seed=seed)
    with progress_bar(as_json) as bar:
        task = bar.add_task("events read", total=None)
        reader = Reader(mapped, lambda rows: bar.update(task, completed=rows))
        if simulated:
            choice = _simulated(reader, choice, seed)
        for source in sources or ():
            read_source(reader, source)
        bar.update(task, description="looking at them")
        found = analyse(
            reader.events(), reader.problems, choice, time.time_ns() // 1_000, simulated=simulated
        )
    told = ["a simulated shop"] if simulated else [_name(source) for source in sources or ()]
    _write(out, render(found, told, time.time()))
    try:
        files = write_parquet(found, parquet) if parquet else []
    except OSError as error:
        complain(f"{parquet}: {error.strerror or error}")
        raise typer.Exit(EXIT_USAGE) from error
    if as_json:
        print_json({**found.plain(), "page": str(out), "files": [str(file) for file in files]})
        return
    _print(found, out, files)


def read_source(reader: Reader, source: str) -> None:
    """Read a data folder, a store or an event file. Raises: InsightError; ends the command where a store is
    refused.
    """
    path = Path(source)
    if "://" not in source and path.suffix != ".sqlite3" and not path.is_dir():
        reader.file(path)
        return
    where = str(path / _CATALOGUE) if "://" not in source and path.is_dir() else source
    export = room("server.feedback.export", "Install what serving needs with `make build`")
    errors = room("server.catalogue.errors", "Install what serving needs with `make build`")
    try:
        reader.batches(export.feedback_batches(where), _name(source))
    except errors.StoreError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from error


def _simulated(reader: Reader, choice: Any, seed: int) -> Any:
    from dataclasses import replace

    from muster.insight.simulate import EXPERIMENT, simulate

    made = simulate(seed=seed)
    reader.batches(made.events.to_batches(), "the simulator")
    texts = {row["product_id"]: f"{row['title']} {row['category']}" for row in made.products.to_pylist()}
    return replace(choice, by_chance=[EXPERIMENT], texts=texts)


def _texts(path: Path) -> dict[str, str]:
    """Title and category of each product."""
    from muster.products.readers import read_products

    return {
        product.product_id: " ".join([product.title, *product.category]) for product in read_products(path)
    }


def _pairs(option: str, values: list[str] | None) -> dict[str, str]:
    pairs = [value.partition("=") for value in values or ()]
    if any(not name or not sign or not other for name, sign, other in pairs):
        complain(f"{option} takes two names with = between them")
        raise typer.Exit(EXIT_USAGE)
    return {name: other for name, _, other in pairs}


def _name(source: str) -> str:
    """A source without its folders, and without what an address may hold."""
    return "a database" if "://" in source else Path(source).resolve().name


def _write(path: Path, page: str) -> None:
    """By rename, so that a reader finds the old page or the new one; for its owner alone, as exports are."""
    half = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(
            os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(page)
        half.replace(path)
    except OSError as error:
        complain(f"{path}: {error.strerror or error}")
        raise typer.Exit(EXIT_USAGE) from error


def _print(found: Insight, out: Path, files: list[Path]) -> None:
    from muster.insight.cleaning import REASONS
    from muster.insight.page import SIMULATED, number

    if found.simulated:
        print(SIMULATED)
    print(f"{found.events:,} events of {found.people:,} people, {found.first_day} to {found.last_day}")
    table = make_table("figure", "", "value", "95 %", "of")
    for name, label, rows in _SAID:
        one = found.table(name)
        for row in one.rows[:rows]:
            if not row["hidden"]:
                interval = f"{number(row['low'], one.unit)} to {number(row['high'], one.unit)}"
                told = number(row["value"], one.unit)
                table.add_row(one.title, str(row[label]), told, interval, f"{row['of']:,}")
    make_console().print(table)
    for reason, count in found.left_out.events.items():
        print(f"left out: {count:,} events {REASONS[reason]}")
    print(f"{out}" + (f", and {len(files)} tables in {files[0].parent}" if files else ""))


# Table, the column that says what a row is of, and how many rows are printed; the page has all.
_SAID = (
    ("funnel", "step", 4),
    ("clicked_by_tier", "tier", 5),
    ("queries_without_results", "query", 1),
    ("segments", "words", 8),
    ("returning", "weeks_later", 3),
    ("growth", "figure", 1),
)
