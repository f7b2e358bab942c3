"""Every drill that came to an end, in one SQLite file: what was claimed, measured, and on what machine.

The file is only ever added to. `MUSTER_DRILL_RECORDS` names it; set but empty: nothing is kept.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "MUSTER_DRILL_RECORDS"
DEFAULT_PATH = Path("run/drills/records.sqlite")
_VERSION = 1
_BUSY_S = 10.0
_REFERENCE = re.compile(r"(?P<drill>[a-z_]+)(?:~(?P<back>\d{1,6}))?|(?P<number>\d{1,9})", re.ASCII)
_TABLE = """
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    drill TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    ended_unix_s REAL NOT NULL,
    folder TEXT NOT NULL,
    version TEXT NOT NULL,
    figures TEXT NOT NULL,
    details TEXT NOT NULL,
    machine TEXT NOT NULL,
    noise TEXT NOT NULL
)
"""
_COLUMNS = "number, drill, verdict, reason, ended_unix_s, folder, version, figures, details, machine, noise"


class RecordsError(Exception):
    """The file cannot be used; the text says why and what to do."""


class UnknownRun(LookupError):
    """No such run; the text says what can be named."""


@dataclass(frozen=True)
class Run:
    """One drill, from start to verdict.

    number: given by the file, from 1; 0 before it is in one. figures: what the drill prints. details: what
    result.json holds besides, `each` single run among it. machine: as `drills.journal.machine`. noise: as
    `drills.report.noise.Noise`. folder: of the record, which may be gone.
    """

    drill: str
    verdict: str
    reason: str
    ended_unix_s: float
    folder: str
    version: str
    figures: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def figure(self, path: str) -> float | None:
        """A figure by its dotted name, such as "rto_ms.p50"; None where it was not measured."""
        value: Any = self.figures
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def default_path() -> Path | None:
    """Where runs are kept; None: nowhere."""
    given = os.environ.get(VARIABLE)
    if given is None:
        return DEFAULT_PATH
    return Path(given) if given else None


class Records:
    """The runs in a file. Several processes may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, run: Run) -> int:
        """Keeps a run; returns its number. Makes the file where there is none. Raises: RecordsError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = (
            run.drill,
            run.verdict,
            run.reason,
            run.ended_unix_s,
            run.folder,
            run.version,
            *(json.dumps(value) for value in (run.figures, run.details, run.machine, run.noise)),
        )
        marks = ", ".join("?" * len(values))
        with self._opened() as database:
            cursor = database.execute(
                f"INSERT INTO run ({_COLUMNS.partition(', ')[2]}) VALUES ({marks})", values
            )
            return int(cursor.lastrowid or 0)

    def of(self, drill: str, *, limit: int = 50) -> list[Run]:
        """The newest runs of a drill, newest first. Raises: RecordsError."""
        return self._read("WHERE drill = ? ORDER BY number DESC LIMIT ?", (drill, limit))

    def drills(self) -> list[str]:
        """The names of the drills that there are runs of. Raises: RecordsError."""
        if not self._path.exists():
            return []
        with self._opened() as database:
            return [name for (name,) in database.execute("SELECT DISTINCT drill FROM run ORDER BY drill")]

    def find(self, reference: str) -> Run:
        """A run by its number, or by a drill's name: the newest of it; NAME~2 is two before that.

        Raises: UnknownRun, RecordsError.
        """
        match = _REFERENCE.fullmatch(reference.strip().replace("-", "_"))
        if match is None:
            raise UnknownRun(f"{reference!r} names no run: write its number, NAME, or NAME~2")
        if match["number"]:
            found = self._read("WHERE number = ?", (int(match["number"]),))
            if not found:
                raise UnknownRun(f"no run {match['number']} in {self._path}")
            return found[0]
        back = int(match["back"] or 0)
        found = self._read("WHERE drill = ? ORDER BY number DESC LIMIT 1 OFFSET ?", (match["drill"], back))
        if not found:
            known = ", ".join(self.drills()) or "none"
            raise UnknownRun(f"no run {reference} in {self._path}; there are runs of: {known}")
        return found[0]

    def _read(self, condition: str, values: Sequence[Any]) -> list[Run]:
        if not self._path.exists():
            return []
        with self._opened() as database:
            return [_run(row) for row in database.execute(f"SELECT {_COLUMNS} FROM run {condition}", values)]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=_BUSY_S)
            try:
                with database:
                    # Taken at once: two drills that end together must not both make the table.
                    database.execute("BEGIN IMMEDIATE")
                    self._prepare(database)
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, ValueError) as error:
            raise RecordsError(
                f"{self._path} cannot be used as the records of drills ({error}): move it away, or name"
                f" another file by {VARIABLE}"
            ) from error

    def _prepare(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            if database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                raise ValueError("it holds something else")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise ValueError(f"it has version {version}, this one reads version {_VERSION}")


def _run(row: tuple[Any, ...]) -> Run:
    number, drill, verdict, reason, ended_unix_s, folder, version, *objects = row
    figures, details, machine, noise = (json.loads(text) for text in objects)
    return Run(
        drill,
        verdict,
        reason,
        ended_unix_s,
        folder,
        version,
        figures,
        details,
        machine,
        noise,
        number,
    )
