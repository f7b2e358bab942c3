"""`muster catalogue ...`: loads products, and passes on what looks after the store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, PASS_ON, Json, Target, duration
from muster.commands.failures import complain, reported, room
from muster.commands.output import print_json, progress_bar

if TYPE_CHECKING:
    from muster.client import Client
    from muster.v1 import catalogue_pb2

_BATCH_BYTES_MAX = 2 * 1024 * 1024  # half of what a gRPC server accepts by default
_PATIENCE_MS = 60_000.0

app = typer.Typer(help="Changes the live catalogue, and looks after its file.", no_args_is_help=True)


@app.command("load")
@reported
def catalogue_load(
    file: Annotated[
        Path, typer.Argument(help="Parquet, CSV, TSV, JSONL, a BEIR corpus, or a folder with one.")
    ],
    map: Annotated[
        str | None,
        typer.Option("--map", help="Column map: a built-in name or a TOML file. Default: by the columns."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1_000, help="Products in one write.")] = 250,
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time for each write.")] = 10_000.0,
    again: Annotated[
        bool, typer.Option("--again", help="Write everything anew, also what an earlier run wrote.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the file; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Loads a file of products into the catalogue. Interrupted, the same command goes on where it stopped.

    The whole file is checked before the first product is written.
    """
    from muster.client import Client
    from muster.products import load_map, product_file, read_products, rows_expected

    path = product_file(file)
    column_map = None if map is None else load_map(map)
    total = rows_expected(path)
    with progress_bar(as_json) as progress:
        task = progress.add_task("checking", total=total)
        count = 0
        for count, _ in enumerate(read_products(path, column_map), start=1):
            if count % 256 == 0:
                progress.update(task, completed=count)
    if check:
        if as_json:
            print_json({"file": str(path), "products": count, "written": 0})
        else:
            print(f"{path}: {count:,} products, no faults; nothing was written")
        return
    load_id = os.urandom(16).hex() if again else load_identity(path)
    written = duplicates = sequence = 0
    started = time.perf_counter()
    with Client(target) as client, progress_bar(as_json) as progress:
        task = progress.add_task("loading", total=count)
        try:
            for events in load_batches(read_products(path, column_map), load_id, batch):
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
            }
        )
        return
    print(f"{written:,} of {count:,} products written in {took_s:.1f} s, up to sequence {sequence:,}")
    if duplicates:
        print(f"{duplicates:,} were in the log from an earlier run of this load; --again writes them anew")


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
