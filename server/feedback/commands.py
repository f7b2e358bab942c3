"""``muster feedback export``: feedback from the store into a Parquet file, for training.

Exit codes: 0 written; 2 bad usage, or refused; 10 the store is damaged.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from muster.privacy.floods import FloodRule
from server.catalogue.command_line import add_store, complain, location, print_json, progress
from server.catalogue.errors import StoreDamaged, StoreError
from server.catalogue.location import is_postgresql
from server.feedback.export import Choice, export_feedback
from server.privacy import places

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_DAMAGED = 10


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        parsed = _parser().parse_args(arguments)
    except SystemExit as left:
        return int(left.code or 0)
    try:
        return _export(parsed)
    except StoreDamaged as damaged:
        complain(str(damaged))
        return EXIT_DAMAGED
    except StoreError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename or parsed.file}: {error.strerror or error}")
    return EXIT_USAGE


def _export(arguments: argparse.Namespace) -> int:
    store = location(arguments)
    folder: Path | None = arguments.data_dir
    if folder is None:
        if is_postgresql(str(store)):
            raise StoreError("name the data folder with --data-dir: that an export was made is noted there")
        folder = Path(store).parent
    choice = Choice(
        since_unix_us=arguments.since,
        until_unix_us=arguments.until,
        unknown_receipts=arguments.unknown_receipts,
        expired_receipts=arguments.expired_receipts,
        named_only=arguments.named_only,
        texts=arguments.texts,
        flood=FloodRule(arguments.per_minute_max, arguments.per_day_max, arguments.per_receipt_max),
    )
    places.note(folder, places.EXPORT, arguments.file)
    with progress(arguments, "events") as told:
        exported = export_feedback(store, arguments.file, choice, told, store_keys=arguments.store_keys)
    if arguments.json:
        print_json(asdict(exported))
        return EXIT_DONE
    print(f"{arguments.file}: {exported.events:,} events")
    for reason, count in exported.left_out.items():
        print(f"  left out {count:,}: {reason.replace('_', ' ')}")
    for why, actors in exported.outliers.items():
        print(f"  {actors:,} who gave {why}")
    if exported.server_clock:
        print(f"  {exported.server_clock:,} by the server's clock: the caller's could not be believed")
    return EXIT_DONE


def _moment(text: str) -> int:
    """A date, or a date and time; in UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-29 or 2026-11-29T08:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="muster feedback", description="Feedback out of the store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "Writes feedback into a Parquet file; replicas may run."
    export = commands.add_parser("export", help=text, description=text)
    add_store(export)
    export.add_argument("file", type=Path, metavar="FILE", help="Parquet file to write")
    export.add_argument("--data-dir", type=Path, metavar="FOLDER", help="default: the store's folder")
    export.add_argument("--since", type=_moment, default=0, metavar="DATE", help="recorded from then on")
    export.add_argument("--until", type=_moment, default=0, metavar="DATE", help="recorded before then")
    export.add_argument("--texts", action="store_true", help="with comments and queries")
    export.add_argument(
        "--named-only", action="store_true", help="not what names neither shopper nor session"
    )
    export.add_argument("--unknown-receipts", action="store_true", help="also on answers that nobody gave")
    export.add_argument("--expired-receipts", action="store_true", help="also on answers of long ago")
    rule = FloodRule()
    for name, default, what in (
        ("--per-minute-max", rule.per_minute_max, "events of one actor a minute"),
        ("--per-day-max", rule.per_day_max, "events of one actor a day"),
        ("--per-receipt-max", rule.per_receipt_max, "events of one actor on one answer"),
    ):
        export.add_argument(
            name, type=_count, default=default, metavar="N", help=f"{what}, views aside; default {default}"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
