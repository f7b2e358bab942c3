"""The places outside the store that hold what shoppers did: each export, backup and set-aside copy writes
itself down.

A file of lines of JSON beside the store, `places.jsonl`: {"kind": ..., "path": ..., "written_unix_s":
...}. Whoever copies a file elsewhere must see to the copy himself, or write it down with `muster privacy
places --add`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "places.jsonl"

EXPORT = "export"
BACKUP = "backup"
COPY = "copy"
KINDS = (EXPORT, BACKUP, COPY)


@dataclass(frozen=True)
class Place:
    """One file. kind: EXPORT (Parquet of `muster feedback export`), BACKUP, or COPY (a catalogue set
    aside).
    """

    kind: str
    path: Path
    written_unix_s: int


def note(folder: Path, kind: str, path: Path) -> None:
    """Write a place down, durably; before the file is written, so that none is forgotten."""
    line = json.dumps({"kind": kind, "path": str(path.resolve()), "written_unix_s": int(time.time())})
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def places(folder: Path) -> list[Place]:
    """All that were written down, each path once, with its newest entry. What cannot be read is passed
    over.
    """
    found: dict[Path, Place] = {}
    try:
        lines = (folder / FILE_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
            place = Place(str(entry["kind"]), Path(str(entry["path"])), int(entry["written_unix_s"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if place.kind in KINDS:
            found[place.path] = place
    return list(found.values())
