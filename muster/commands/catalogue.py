"""`muster catalogue ...`: loads products, and passes on what looks after the store."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, PASS_ON, Json, Target, duration
from muster.commands.failures import complain, reported, room
from muster.commands.output import make_console, make_table, print_json, progress_bar

if TYPE_CHECKING:
    from muster.client import Client
    from muster.products.feed import FeedReport, Profile
    from muster.v1 import catalogue_pb2

EXIT_REFUSED = 10
_REFERENCE_PRODUCTS = 200
"""Asked of the running service one by one, to compare a file with."""
_REFERENCE_PRODUCTS_LEAST = 50
_SHOWN = 5
_BATCH_BYTES_MAX = 2 * 1024 * 1024  # half of what a gRPC server accepts by default
_PATIENCE_MS = 60_000.0


class LeaveOut(StrEnum):
    """Which rows of a file are not loaded."""

    NOTHING = "nothing"
    MALFORMED = "malformed"
    SUSPICIOUS = "suspicious"


File = Annotated[Path, typer.Argument(help="Parquet, CSV, TSV, JSONL, a BEIR corpus, or a folder with one.")]
Map = Annotated[
    str | None,
    typer.Option("--map", help="Column map: a built-in name or a TOML file. Default: by the columns."),
]
Limits = Annotated[
    Path | None, typer.Option("--limits", help="TOML file with other limits of the check than the built-in.")
]

app = typer.Typer(help="Changes the live catalogue, and looks after its file.", no_args_is_help=True)


@app.command("check")
@reported
def catalogue_check(
    file: File,
    map: Map = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Compare with products of these replicas.", envvar="MUSTER_TARGET"),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare with this product file instead.")
    ] = None,
    limits: Limits = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Write one JSON object a line for each fault and suspicion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Says whether a file of products is fit to be loaded; writes nothing to the catalogue.

    Ends with 0 where it is, or where only warnings were given, and with 10 where the file is refused.
    """
    report = _inspected(file, map, limits, _reference(file, map, against, target), as_json)
    if rows is not None:
        _write_rows(rows, report)
    if as_json:
        print_json({"file": str(file), **report.describe()})
    else:
        _show_report(file, report)
    if report.fitness == "refused":
        raise typer.Exit(EXIT_REFUSED)


@app.command("load")
@reported
def catalogue_load(
    file: File,
    map: Map = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1_000, help="Products in one write.")] = 250,
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time for each write.")] = 10_000.0,
    again: Annotated[
        bool, typer.Option("--again", help="Write everything anew, also what an earlier run wrote.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the file; write nothing.")] = False,
    leave_out: Annotated[
        LeaveOut,
        typer.Option(
            "--leave-out",
            help="Rows to leave out and tell of, instead of ending at the first fault: malformed ones, or"
            " also suspicious ones, and then the file as a whole must pass `muster catalogue check`.",
        ),
    ] = LeaveOut.NOTHING,
    limits: Limits = None,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Write the rows left out here, one JSON object a line, with reasons."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Loads a file of products into the catalogue. Interrupted, the same command goes on where it stopped.

    The whole file is checked before the first product is written.
    """
    from muster.client import Client
    from muster.products import load_map, product_file, read_products, rows_expected
    from muster.products.readers import numbered_products

    path = product_file(file)
    column_map = None if map is None else load_map(map)
    told: dict[str, Any] = {}
    out: set[int] = set()
    if leave_out is LeaveOut.NOTHING:
        with progress_bar(as_json) as progress:
            task = progress.add_task("checking", total=rows_expected(path))
            count = 0
            for count, _ in enumerate(read_products(path, column_map), start=1):
                if count % 256 == 0:
                    progress.update(task, completed=count)
    else:
        screened = leave_out is LeaveOut.SUSPICIOUS
        reference = _reference(file, map, None, target) if screened else None
        report = _inspected(file, map, limits, reference, as_json)
        if rejects is not None:
            _write_rows(rejects, report, suspicious=screened)
        out = {suspect.row for suspect in report.suspects} if screened else set()
        count = report.rows - len(report.malformed) - len(out)
        told = {"malformed": len(report.malformed), "held_back": len(out), "check": report.describe()}
        if screened and report.fitness == "refused":
            if as_json:
                print_json({"file": str(path), "products": count, "written": 0, **told})
            else:
                _show_report(file, report)
            complain("the file is refused as a whole; nothing was written")
            raise typer.Exit(EXIT_REFUSED)
        if not as_json:
            print(f"left out: {len(report.malformed):,} malformed rows, {len(out):,} suspicious ones")
    if check:
        if as_json:
            print_json({"file": str(path), "products": count, "written": 0, **told})
        else:
            print(f"{path}: {count:,} products, no faults; nothing was written")
        return

    def wanted() -> Iterator[catalogue_pb2.Product]:
        if leave_out is LeaveOut.NOTHING:
            yield from read_products(path, column_map)
        else:
            for row, product in numbered_products(path, column_map, refuse=lambda problem: None):
                if row not in out:
                    yield product

    load_id = os.urandom(16).hex() if again else load_identity(path)
    written = duplicates = sequence = 0
    started = time.perf_counter()
    with Client(target) as client, progress_bar(as_json) as progress:
        task = progress.add_task("loading", total=count)
        try:
            for events in load_batches(wanted(), load_id, batch):
                answer = _apply_patiently(client, events, deadline)
                written += len(events) - answer.duplicates
                duplicates += answer.duplicates
                sequence = max(sequence, answer.sequence)
                progress.update(task, completed=written + duplicates)
        except Exception:
            complain(
                f"{written + duplicates:,} of {count:,} products are in the log; "
                "run the same command again to go on from there"
            )
            raise
    took_s = time.perf_counter() - started
    if as_json:
        print_json(
            {
                "file": str(path),
                "products": count,
                "written": written,
                "duplicates": duplicates,
                "sequence": sequence,
                "took_s": round(took_s, 3),
                **told,
            }
        )
        return
    print(f"{written:,} of {count:,} products written in {took_s:.1f} s, up to sequence {sequence:,}")
    if duplicates:
        print(f"{duplicates:,} were in the log from an earlier run of this load; --again writes them anew")


def _inspected(
    file: Path, map: str | None, limits: Path | None, reference: Profile | None, quiet: bool
) -> FeedReport:
    from muster.products import feed

    measured = feed.LIMITS if limits is None else feed.read_limits(limits)
    with progress_bar(quiet) as progress:
        progress.add_task("checking", total=None)
        return feed.inspect(file, map, reference=reference, limits=measured)


def _reference(file: Path, map: str | None, against: Path | None, target: str | None) -> Profile | None:
    """What the file is compared with; None: nothing was named, or too little of it is served."""
    from muster.products import feed, read_products

    if against is not None:
        return feed.profile_of(read_products(against, refuse=lambda problem: None))
    if target is None:
        return None
    served = feed.profile_of(_served(file, map, target))
    return served if served.products >= _REFERENCE_PRODUCTS_LEAST else None


def _served(file: Path, map: str | None, target: str) -> Iterator[catalogue_pb2.Product]:
    """Products of the running service with the identifiers of the file's rows, spread over the file."""
    from muster.client import Client, NotFound
    from muster.products import read_products

    ids = [product.product_id for product in read_products(file, map, refuse=lambda problem: None)]
    step = max(1, len(ids) // _REFERENCE_PRODUCTS)
    with Client(target) as client:
        for product_id in ids[::step]:
            with contextlib.suppress(NotFound):
                yield client.get(product_id, deadline_ms=2_000).product


def _write_rows(path: Path, report: FeedReport, *, suspicious: bool = True) -> None:
    with path.open("w", encoding="utf-8") as file:
        for one in report.left_out():
            if suspicious or one["kind"] == "malformed":
                file.write(json.dumps(one, ensure_ascii=False) + "\n")


def _show_report(file: Path, report: FeedReport) -> None:
    table = make_table("measure", "of the rows, or factor", "warned above", "refused above", "")
    for measure in report.measures:
        verdict = "" if measure.fitness == "fit" else str(measure.fitness)
        limit = measure.limit
        table.add_row(measure.name, f"{measure.value:.4f}", f"{limit.warn:g}", f"{limit.refuse:g}", verdict)
    console = make_console()
    console.print(table)
    for problem in report.malformed[:_SHOWN]:
        console.print(f"malformed: {problem}", markup=False)
    for suspect in report.suspects[:_SHOWN]:
        one = suspect.suspicions[0]
        console.print(
            f"suspicious: row {suspect.row}, {suspect.product_id}, {one.field}: {one.detail}", markup=False
        )
    print(
        f"{file}: {report.rows:,} rows, {len(report.malformed):,} malformed, {len(report.suspects):,}"
        f" suspicious: {report.fitness}"
    )


def load_identity(path: Path) -> str:
    """What makes two runs the same load: the file's name, size and time of change."""
    facts = path.stat()
    return f"{path.name}:{facts.st_size}:{facts.st_mtime_ns}"


def load_batches(
    products: Iterable[catalogue_pb2.Product], load_id: str, batch: int
) -> Iterator[list[catalogue_pb2.Event]]:
    """Upserts with ids that depend on load and content alone, in batches that a server accepts."""
    from muster.client import content_event_id, upsert

    events: list[catalogue_pb2.Event] = []
    size = 0
    for product in products:
        raw = product.SerializeToString(deterministic=True)
        if events and (len(events) == batch or size + len(raw) > _BATCH_BYTES_MAX):
            yield events
            events, size = [], 0
        events.append(upsert(product, event_id=content_event_id("load", load_id, raw)))
        size += len(raw)
    if events:
        yield events


def _apply_patiently(client: Client, events: Sequence[catalogue_pb2.Event], deadline_ms: float) -> Any:
    """Sends a batch again while the service sheds load or an outcome is unknown; the ids make that safe."""
    from muster.client import DeadlineExceeded, Overloaded

    give_up_at = time.monotonic() + _PATIENCE_MS / 1000
    while True:
        try:
            return client.apply(events, deadline_ms=deadline_ms)
        except Overloaded as error:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(max(0.05, error.retry_after_ms / 1000))
        except DeadlineExceeded:
            if time.monotonic() > give_up_at:
                raise


def _pass_to_store(name: str, text: str) -> None:
    """Adds a command that looks after the catalogue's file, which the server's code does."""

    @app.command(name, help=text, context_settings=PASS_ON)
    @reported
    def run(context: typer.Context) -> None:
        module = room("server.catalogue.commands", "Install what serving needs with `make build`")
        raise typer.Exit(module.main([name, *context.args]))


_pass_to_store("verify", "Looks through every row of the log for damage: [--store PATH] [--json].")
_pass_to_store("repair", "Puts damaged rows back where a copy proves them: --from BACKUP; --help lists all.")
_pass_to_store("export", "Writes a backup while replicas run: FILE [--until SEQUENCE] [--json].")
_pass_to_store(
    "restore", "Makes a catalogue from a backup: FILE --store PATH [--until SEQUENCE] [--replace]."
)
