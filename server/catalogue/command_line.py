"""What the commands of operators share: which store is meant, bars of progress, JSON, complaints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.catalogue.errors import StoreError
from server.catalogue.location import check_address
from server.privacy.envelope import EnvelopeRefused, KeyEncryption, read_keys

FILE_NAME = "catalogue.sqlite3"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that every such command takes."""
    parser.add_argument(
        "--store",
        metavar="PATH|URL",
        help=f"the catalogue's file, the folder with {FILE_NAME}, or the address of its database;"
        " default: MUSTER_DATA_DIR",
    )
    parser.add_argument(
        "--store-keys",
        metavar="FILE|env:NAME",
        default=os.environ.get("MUSTER_CATALOGUE__ENCRYPTION_KEYS", ""),
        help="keys of an encrypted catalogue; default: MUSTER_CATALOGUE__ENCRYPTION_KEYS",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of those that read or write backups."""
    parser.add_argument(
        "--keys",
        metavar="FILE|env:NAME",
        default=os.environ.get("MUSTER_KEYS", ""),
        help="keys to encrypted backups (`muster privacy new-key`); default: MUSTER_KEYS",
    )


def keys_of(arguments: argparse.Namespace) -> KeyEncryption | None:
    """The keys that were named; None: none were. Raises: StoreError."""
    if not arguments.keys:
        return None
    try:
        return read_keys(arguments.keys)
    except EnvelopeRefused as refused:
        raise StoreError(str(refused)) from refused


def location(arguments: argparse.Namespace) -> str | Path:
    """The catalogue's file, or its database's address. Raises: StoreError if none was named."""
    named = arguments.store or os.environ.get("MUSTER_DATA_DIR")
    if not named:
        raise StoreError("name the catalogue with --store, or set MUSTER_DATA_DIR")
    if "://" in named:
        try:
            return check_address(named)
        except ValueError as error:
            raise StoreError(f"--store {error}") from error
    path = Path(named)
    return path / FILE_NAME if path.is_dir() else path


@contextmanager
def progress(arguments: argparse.Namespace, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich import progress as rich_progress

    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
        console=_error_console(),
        disable=arguments.json or not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _error_console() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False, indent=2))


def complain(message: str) -> None:
    print(f"muster: {message}", file=sys.stderr)
