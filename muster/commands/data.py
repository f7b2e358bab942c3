"""`muster data ...`: data sets to train and to try with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.commands.arguments import Json
from muster.commands.failures import EXIT_USAGE, complain, reported
from muster.commands.output import make_console, print_json, progress_bar

app = typer.Typer(help="Public and synthetic data sets.", no_args_is_help=True)


@app.command("get")
@reported
def data_get(
    name: Annotated[str, typer.Argument(help="esci or wands.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to fill. Default: data/NAME.")] = None,
    queries: Annotated[
        int,
        typer.Option("--queries", min=1, help="Queries of each split, with the products judged for them."),
    ] = 200,
    everything: Annotated[bool, typer.Option("--all", help="All queries and products.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before downloading.")] = False,
    as_json: Json = False,
) -> None:
    """Fetches a public data set from its own project, after showing its licence."""
    from muster.products.downloads import data_sets, fetch

    known = data_sets()
    if name not in known:
        raise typer.BadParameter(f"no data set is called {name!r}; there are: {', '.join(known)}")
    data_set = known[name]
    folder = out or Path("data") / name
    size = f"{data_set.bytes / 1e6:,.0f} MB" if data_set.bytes else "size not declared"
    print(f"{data_set.title}\n  from {data_set.homepage}\n  licence {data_set.licence}", file=sys.stderr)
    print(f"  cite {data_set.citation}", file=sys.stderr)
    for file in data_set.files:
        print(f"  {file.name}: SHA-256 {file.sha256 or 'not declared by the project'}", file=sys.stderr)
    if not yes:
        try:
            wanted = typer.confirm(f"Download it ({size}) into {folder}?", err=True)
        except typer.Abort:  # nobody is there to answer
            wanted = False
        if not wanted:
            complain("nothing was downloaded; --yes downloads without asking")
            raise typer.Exit(EXIT_USAGE)
    with _download_progress(as_json) as progress:
        tasks: dict[str, Any] = {}

        def show(file: str, received: int, expected: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=expected or None)
            progress.update(tasks[file], completed=received)

        fetch(data_set, folder, queries_max=None if everything else queries, progress=show)
    if as_json:
        print_json({"data_set": name, "folder": str(folder), "licence": data_set.licence})
    else:
        print(f"{folder}: products.parquet, queries.parquet, labels.parquet (licence {data_set.licence})")


def _download_progress(quiet: bool) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        console=make_console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )


@app.command("synthetic")
@reported
def data_synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    products: Annotated[int, typer.Option("--products", min=1, help="Size of the catalogue.")] = 5_000,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Judged queries.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 1,
    as_json: Json = False,
) -> None:
    """Writes a synthetic catalogue with queries whose relevance is known by construction."""
    from muster.products.synthetic import write_synthetic

    with progress_bar(as_json) as progress:
        task = progress.add_task("writing and judging", total=2 * products)
        try:
            write_synthetic(
                out,
                products=products,
                queries=queries,
                seed=seed,
                progress=lambda done: progress.update(task, completed=done),
            )
        except OSError as error:
            raise typer.BadParameter(f"{out} cannot be written ({error.strerror or error})") from error
    if as_json:
        print_json({"folder": str(out), "products": products, "queries": queries, "seed": seed})
    else:
        print(f"{out}: {products:,} products, {queries:,} judged queries")
