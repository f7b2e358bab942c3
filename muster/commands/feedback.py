"""`muster feedback ...`: records feedback, and passes on what writes it out of the store."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, PASS_ON, Json, Target, duration
from muster.commands.failures import EXIT_USAGE, complain, reported, room
from muster.commands.output import print_json, progress_bar

if TYPE_CHECKING:
    from muster.v1 import feedback_pb2

_BATCH = 250
_LINE_CHARACTERS_MAX = 65_536

app = typer.Typer(help="What shoppers did with the answers.", no_args_is_help=True)


@app.command("record")
@reported
def record(
    kind: Annotated[
        str, typer.Argument(help="view, click, cart, buy, comment or share; - with --file.")
    ] = "-",
    product: Annotated[str, typer.Argument(help="The product's identifier.")] = "",
    receipt: Annotated[str, typer.Option("--receipt", help="receipt_id of the answer it belongs to.")] = "",
    position: Annotated[int, typer.Option("--position", min=0, help="Place in the answer, from 1.")] = 0,
    shopper: Annotated[str, typer.Option("--shopper", help="The shop's name for the shopper.")] = "",
    session: Annotated[str, typer.Option("--session", help="The shop's name for the visit.")] = "",
    comment: Annotated[str, typer.Option("--comment", help="What was written, for a comment.")] = "",
    query: Annotated[str, typer.Option("--query", help="The query that led there.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="JSONL of many events: kind, product_id, receipt_id, ...")
    ] = None,
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time for each write.")] = 10_000.0,
    as_json: Json = False,
) -> None:
    """Records one event of feedback, or those of a file.

    Lines of a file name the fields of FeedbackEvent; one without an event_id gets one from its content, so
    that the same file may be recorded again.
    """
    from muster.client import Client, feedback

    if file is not None:
        total, events = read_events(file)
    else:
        total = 1
        events = iter(
            [
                feedback(
                    kind,  # type: ignore[arg-type]
                    product,
                    receipt=receipt,
                    position=position,
                    shopper_id=shopper,
                    session_id=session,
                    comment=comment,
                    query=query,
                )
            ]
        )
    done = duplicates = unknown = sequence = 0
    with Client(target) as client, progress_bar(as_json) as bar:
        task = bar.add_task("recording", total=total)
        batch: list[feedback_pb2.FeedbackEvent] = []
        for event in events:
            batch.append(event)
            if len(batch) == _BATCH or done + len(batch) == total:
                answer = client.record(batch, deadline_ms=deadline)
                done, batch = done + len(batch), []
                duplicates += answer.duplicates
                unknown += answer.unknown_receipts
                sequence = max(sequence, answer.sequence)
                bar.update(task, completed=done)
    if as_json:
        print_json(
            {
                "events": done,
                "duplicates": duplicates,
                "unknown_receipts": unknown,
                "sequence": sequence,
            }
        )
        return
    print(f"{done - duplicates:,} of {done:,} events recorded, up to sequence {sequence:,}")
    if duplicates:
        print(f"{duplicates:,} were recorded before")
    if unknown:
        print(f"{unknown:,} name an answer that this service did not give; exports leave them out")


def read_events(path: Path) -> tuple[int, Iterator[feedback_pb2.FeedbackEvent]]:
    """How many events a file of JSON lines holds, and the events. The whole file is checked first.

    Ends the command where a line is no event, naming the line, not what it holds.
    """
    from google.protobuf import json_format

    from muster.client import content_event_id
    from muster.v1 import feedback_pb2

    def events() -> Iterator[feedback_pb2.FeedbackEvent]:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    values = _values(line)
                    event = json_format.ParseDict(values, feedback_pb2.FeedbackEvent())
                except (ValueError, RecursionError, json_format.ParseError):
                    complain(
                        f"{path}, line {number}: is no event of feedback; nothing of the file was recorded"
                    )
                    raise typer.Exit(EXIT_USAGE) from None
                if not event.event_id:
                    event.event_id = content_event_id("feedback", line.strip())
                yield event

    return sum(1 for _ in events()), events()


def _values(line: str) -> dict[str, Any]:
    if len(line) > _LINE_CHARACTERS_MAX:
        raise ValueError("the line is too long")
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if isinstance(values.get("kind"), str) and not values["kind"].startswith("FEEDBACK_KIND_"):
        values["kind"] = f"FEEDBACK_KIND_{values['kind'].upper()}"
    return values


@app.command(
    "export",
    help="Writes feedback into a Parquet file: FILE [--since DATE] [--texts] [--json].",
    context_settings=PASS_ON,
)
@reported
def export(context: typer.Context) -> None:
    """Passes on to the server's code."""
    module = room("server.feedback.commands", "Install what serving needs with `make build`")
    raise typer.Exit(module.main(["export", *context.args]))


@app.command("queue")
@reported
def queue(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="As for `muster insight`: data folders, exports, event files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The sheet to write (CSV).")] = Path("queue.csv"),
    judgements: Annotated[
        Path | None, typer.Option("--judgements", metavar="DIR", help="Judgements that there are already.")
    ] = None,
    products: Annotated[Path | None, typer.Option("--products", help="Product file, for titles.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Pairs at most.")] = 200,
    least: Annotated[int, typer.Option("--least", min=2, help="People that must have asked a query.")] = 10,
    as_json: Json = False,
) -> None:
    """Which pairs of query and product a person should judge next: commented, passed over or sought out."""
    from muster.commands.insight import read_source
    from muster.insight.cleaning import Bounds, cleaned
    from muster.insight.events import with_sessions
    from muster.insight.reading import Reader, plain_query
    from muster.labelling.queue import queue as pairs_of
    from muster.labelling.sheet import write_pairs
    from muster.products import read_judgements
    from muster.products.readers import read_products

    known = read_judgements(judgements, None) if judgements else None
    ids = {plain_query(text): key for key, text in known.queries.items()} if known else {}
    judged = {text: known.gains[key] for text, key in ids.items()} if known else {}
    with progress_bar(as_json) as bar:
        task = bar.add_task("events read", total=None)
        reader = Reader(progress=lambda rows: bar.update(task, completed=rows))
        for source in sources:
            read_source(reader, source)
        bar.update(task, description="looking at them")
        kept, _ = cleaned(reader.events(), Bounds(), time.time_ns() // 1_000)
        found = pairs_of(with_sessions(kept), judged=judged, least=least, limit=limit)
    wanted = {pair.product_id for pair in found}
    titles = (
        {one.product_id: one.title for one in read_products(products) if one.product_id in wanted}
        if products
        else {}
    )
    write_pairs(out, found, ids=ids, titles=titles)
    if as_json:
        print_json({"pairs": [asdict(pair) for pair in found], "sheet": str(out)})
        return
    counts = Counter(reason for pair in found for reason in pair.reasons)
    told = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
    print(f"{out}: {len(found):,} pairs to judge" + (f" ({told})" if told else ""))
    if found:
        print(f"fill in the column gain, then: muster feedback labels {out} --out DIR")


@app.command("labels")
@reported
def labels(
    sheet: Annotated[Path, typer.Argument(metavar="SHEET", help="A sheet of `queue` with gains filled in.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the judgements to write.")],
    judgements: Annotated[
        Path | None, typer.Option("--judgements", metavar="DIR", help="Judgements that these are added to.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Makes judgements for training of a sheet that people filled in."""
    from muster.labelling.sheet import judgements_of

    filled = judgements_of(sheet, out, judgements)
    if as_json:
        print_json({**asdict(filled), "folder": str(out)})
        return
    print(f"{out}: {filled.judged:,} pairs judged, {filled.empty:,} rows left empty")
