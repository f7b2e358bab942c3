"""`muster audit ...`: who did what to a replica, and whether that account is whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.commands.arguments import Json
from muster.commands.failures import reported
from muster.commands.output import make_console, make_table, print_json

EXIT_TAMPERED = 10

app = typer.Typer(help="Shows who did what to a replica, and checks that account.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The audit of one replica: DATA_DIR/audit/REPLICA.")
]


@app.command("verify")
@reported
def audit_verify(
    folder: Folder,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", metavar="NUMBER:HASH", help="A record known from elsewhere; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Checks every record and link. Exit code 10 where something is wrong. Keep the anchor that it prints on
    another machine: without one, missing newest records are not found."""
    from muster import audit

    found = audit.verify(folder, [audit.Anchor.parse(text) for text in anchor or ()])
    if as_json:
        print_json(
            {
                "records": found.records,
                "first": found.first,
                "anchor": None if found.head is None else str(found.head),
                "findings": [
                    {"file": one.file, "line": one.line, "text": one.text} for one in found.findings
                ],
            }
        )
    else:
        begins = f", from record {found.first} on" if found.first > 1 else ""
        print(f"{found.records:,} records{begins}; {len(found.findings):,} findings; anchor {found.head}")
        for one in found.findings:
            print(f"{one.file}:{one.line}: {one.text}" if one.file else one.text)
    if found.findings:
        raise typer.Exit(EXIT_TAMPERED)


@app.command("show")
@reported
def audit_show(
    folder: Folder,
    kind: Annotated[str, typer.Option("--kind", help="Only records of this kind.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only what this caller did.")] = "",
    last: Annotated[
        int, typer.Option("--last", min=1, max=100_000, help="At most so many, the newest.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Shows records, the newest last. It does not check them."""
    from collections import deque

    from rich.text import Text

    from muster import audit

    kept: deque[Any] = deque(maxlen=last)
    for _, _, found in audit.read(folder):
        if isinstance(found, str) or (kind and found.kind != kind) or (subject and found.subject != subject):
            continue
        kept.append(found)
    if as_json:
        print_json(
            [
                {
                    "number": one.number,
                    "unix_us": one.unix_us,
                    "kind": one.kind,
                    "subject": one.subject,
                    "address": one.address,
                    "detail": one.detail,
                }
                for one in kept
            ]
        )
        return
    table = make_table("record", "time (UTC)", "kind", "who", "from", "what")
    for one in kept:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.unix_us / 1e6))
        what = " ".join(f"{key}={value}" for key, value in one.detail.items())
        cells = (str(one.number), when, one.kind, one.subject or "-", one.address or "-", what)
        table.add_row(*(Text(cell) for cell in cells))
    make_console().print(table)
