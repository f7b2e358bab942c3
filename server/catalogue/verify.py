"""Looking through a whole store for damage: every row is read, nothing is changed.

What is found is named by sequence or product. Rows that cannot be read at all do not end the search: the rows
around them are still looked at.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from server.catalogue import checksum, encryption, schema, snapshot
from server.catalogue.backup import Digest
from server.catalogue.errors import StoreDamaged
from server.catalogue.inspection import attempt, reading
from server.catalogue.rows import EMPTY_CHECKSUM, FeedbackRow, FoldedId, LogRow, SnapshotRow, SnapshotState

Progress: TypeAlias = Callable[[int, int], None]
"""Rows looked at, rows in all."""

# Problems that a report describes; further ones are only counted.
PROBLEMS_TOLD = 50

_ROWS_AT_ONCE = 500
_ROWS_ON_A_PAGE_MAX = 4096
_SEQUENCE_MAX = 2**63 - 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    part: `file`, `schema`, `log`, `snapshot`, `event_ids`, `feedback` or `lease`. sequence: of the first
    row concerned; None: it concerns no one row. text: a sentence without its end.
    """

    part: str
    sequence: int | None
    text: str


@dataclass
class Report:
    """What a store holds, and what is wrong with it. unsealed: rows of the log without a checksum.

    problems: the first ones; problem_count: all of them. damaged: sequences of rows of the log that are
    damaged or unreadable. missing: ranges of sequences that the log lacks. products: damaged rows of the
    snapshot, by product. digest: of all rows, as a backup of them would have it; empty where anything is
    wrong. Two catalogues with the same one hold the same.
    """

    location: str
    cluster_id: str = ""
    revision: str = ""
    events: int = 0
    unsealed: int = 0
    head_sequence: int = 0
    head_epoch: int = 0
    snapshot_sequence: int = 0
    snapshot_products: int = 0
    folded_event_ids: int = 0
    folded_feedback: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    damaged_products: list[str] = field(default_factory=list)
    snapshot_broken: bool = False
    digest: str = ""

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return self.problem_count == 0

    def add(self, part: str, text: str, sequence: int | None = None) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_TOLD:
            self.problems.append(Problem(part, sequence, text))


def verify_store(
    location: str | Path, progress: Progress = lambda done, total: None, *, store_keys: str = ""
) -> Report:
    """Look through the catalogue at `location`, a file or a database, also while replicas use it.

    store_keys: where the keys are, if it is encrypted. Raises: StoreUnavailable, SchemaMismatch where there
    is no catalogue to look through; CatalogueEncrypted.
    """
    report = Report(str(location))
    try:
        with reading(location, store_keys) as connection:
            report.revision = schema.revision(connection) or ""
            report.cluster_id = schema.cluster_id(connection)
            if connection.dialect.name == "sqlite":
                _verify_pages(connection, Path(location), report)
            verify_rows(connection, report, progress)
    except StoreDamaged as damaged:
        report.add("file", str(damaged).partition(";")[0])
    return report


def _verify_pages(connection: sa.Connection, path: Path, report: Report) -> None:
    """The file is as long as it says, and its pages hold together."""
    page_bytes = int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)
    pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)
    log = Path(f"{path}-wal")
    size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    if size < pages * page_bytes:
        report.add("file", f"it is cut short: {size} of {pages * page_bytes} bytes")
    try:
        for text in connection.exec_driver_sql(f"PRAGMA quick_check({PROBLEMS_TOLD})").scalars():
            if text != "ok":
                report.add("file", str(text).replace("\n", ", "))
    except sa.exc.DBAPIError as error:
        # Of some pages SQLite says what is wrong and then gives up.
        report.add("file", f"its pages cannot be checked further: {error.orig}")


def verify_rows(
    connection: sa.Connection, report: Report, progress: Progress = lambda done, total: None
) -> None:
    """Look at every row, in the one read transaction given; adds to the report what is wrong."""
    present = set(sa.inspect(connection).get_table_names())
    missing_tables = sorted(set(schema.metadata.tables) - present)
    if missing_tables:
        report.add("schema", f"the tables {', '.join(missing_tables)} are missing")
        return
    search = _Search(connection, report, progress)
    # In the order of a backup.
    state = search.state()
    search.event_ids(state)
    search.feedback(state)
    search.snapshot(state)
    search.log(state)
    search.doubled_ids()
    search.lease()
    if report.sound:
        report.digest = search.digest()


_COUNTED = (schema.log, schema.snapshot, schema.folded_event, schema.feedback)


class _Search:
    """One pass over a store."""

    def __init__(self, connection: sa.Connection, report: Report, progress: Progress) -> None:
        self._connection = connection
        self._report = report
        self._progress = progress
        self._done = 0
        # 64 bits stand for an event id: 8 bytes for each event, however long the log.
        self._ids = array("Q")
        self._content = Digest()
        self._total = sum(self._count(table) for table in _COUNTED)

    def state(self) -> SnapshotState:
        """The snapshot's state, an empty one where it cannot be believed."""
        try:
            state = snapshot.read_state(self._connection)
        except StoreDamaged as damaged:
            self._report.snapshot_broken = True
            self._report.add("snapshot", str(damaged).partition(";")[0])
            table = schema.snapshot_state
            state = SnapshotState(self._connection.execute(sa.select(table.c.sequence)).scalar() or 0)
        self._report.snapshot_sequence = state.sequence
        self._content.add(state)
        return state

    def snapshot(self, state: SnapshotState) -> None:
        """Every row of the snapshot, and that they are all there."""
        together = EMPTY_CHECKSUM
        products = 0
        for sequence, row in self._rows(schema.snapshot, SnapshotRow):
            products += 1
            if row is None:
                self._report.snapshot_broken = True
                self._report.add("snapshot", f"the row of sequence {sequence} cannot be read", sequence)
                continue
            fault = row.fault()
            if not fault:
                together = checksum.combined(together, row.checksum)
            if not fault and row.changed_sequence > state.sequence:
                fault = f"was changed by event {row.changed_sequence}, after the snapshot's {state.sequence}"
            if fault:
                self._report.damaged_products.append(row.product_id)
                self._report.add("snapshot", f"product {_shown(row.product_id)} {fault}", sequence)
            else:
                self._content.add(row)
        self._report.snapshot_products = products
        if not self._report.snapshot_broken and not self._report.damaged_products:
            if products != state.products:
                self._report.add("snapshot", f"it holds {products} products, {state.products} are declared")
                self._report.snapshot_broken = True
            elif together != state.rows_checksum:
                self._report.add("snapshot", "its rows do not match the checksum of them all")
                self._report.snapshot_broken = True

    def log(self, state: SnapshotState) -> None:
        """Every row of the log: there, in order, as it was written."""
        report = self._report
        sealed = snapshot.sealed_sequence(self._connection)
        expected, epoch = state.sequence + 1, state.epoch
        for sequence, row in self._rows(schema.log, LogRow):
            report.events += 1
            if sequence < expected:
                report.add("log", f"event {sequence} is in the log and in the snapshot", sequence)
                continue
            if sequence > expected:
                report.missing.append((expected, sequence - 1))
                report.add("log", _missing(expected, sequence - 1), expected)
            expected = sequence + 1
            if row is None:
                report.damaged.append(sequence)
                report.add("log", f"event {sequence} cannot be read", sequence)
                continue
            fault = row.fault()
            if row.checksum is None:
                report.unsealed += 1
                if not fault and sequence <= sealed:
                    fault = "has lost its checksum"
            if fault:
                report.damaged.append(sequence)
                report.add("log", f"event {sequence} {fault}", sequence)
                continue
            if row.epoch < epoch:
                report.add("log", f"event {sequence} is of epoch {row.epoch}, after one of {epoch}", sequence)
            epoch = max(epoch, row.epoch)
            self._ids.append(_digest(row.event_id))
            self._content.add(row)
        report.head_sequence, report.head_epoch = expected - 1, epoch

    def event_ids(self, state: SnapshotState) -> None:
        """The ids of folded events."""
        for sequence, row in self._rows(schema.folded_event, FoldedId):
            self._report.folded_event_ids += 1
            if row is None or not isinstance(row.event_id, str) or not isinstance(row.committed_unix_us, int):
                self._report.add("event_ids", f"the id of folded event {sequence} cannot be read", sequence)
            elif sequence > state.sequence:
                self._report.add(
                    "event_ids", f"event {sequence} counts as folded but is not in the snapshot", sequence
                )
            else:
                self._ids.append(_digest(row.event_id))
                self._content.add(row)

    def feedback(self, state: SnapshotState) -> None:
        """Feedback that was folded. That a whole row is gone is not noticed: rows go when they are old."""
        for sequence, row in self._rows(schema.feedback, FeedbackRow):
            self._report.folded_feedback += 1
            if row is None:
                self._report.add("feedback", f"feedback {sequence} cannot be read", sequence)
            elif fault := row.fault():
                self._report.add("feedback", f"feedback {sequence} {fault}", sequence)
            elif sequence > state.sequence:
                self._report.add(
                    "feedback", f"feedback {sequence} counts as folded but is not in the snapshot", sequence
                )
            else:
                self._content.add(row)

    def doubled_ids(self) -> None:
        """No id was written twice."""
        ids = np.frombuffer(self._ids, np.uint64) if self._ids else np.empty(0, np.uint64)
        doubled = ids.size - np.unique(ids).size
        if doubled:
            self._report.add("event_ids", f"{doubled} events carry an event_id that another one has")

    def lease(self) -> None:
        """The lease is not behind the log."""
        table = schema.lease
        epoch = self._connection.execute(
            sa.select(table.c.epoch).where(table.c.name == schema.LEASE_NAME)
        ).scalar()
        if (epoch or 0) < self._report.head_epoch:
            self._report.add(
                "lease", f"it is at epoch {epoch or 'none'}, the log at {self._report.head_epoch}"
            )

    def digest(self) -> str:
        """Of every row that was looked at."""
        return self._content.hex()

    # --- reading what may be damaged -----------------------------------------------------------------------

    def _count(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        try:
            with attempt(self._connection):
                return int(self._connection.execute(query).scalar() or 0)
        except sa.exc.DBAPIError:
            return 0

    def _rows(self, table: sa.Table, row_of: Callable[..., Any]) -> Iterator[tuple[int, Any]]:
        """Sequence and row of each row, ascending; None for one that cannot be read. Rows on a page that
        cannot even be listed are left out.
        """
        sequence, rows_max = 0, _ROWS_AT_ONCE
        while True:
            try:
                sequences = self._sequences(table, sequence, rows_max)
            except sa.exc.DBAPIError:
                if rows_max > 1:
                    rows_max //= 2
                    continue
                self._report.add("file", f"{table.name} cannot be read after row {sequence}", sequence + 1)
                sequence = self._beyond_break(table, sequence)
                rows_max = _ROWS_AT_ONCE
                continue
            if not sequences:
                return
            yield from self._read(table, sequences, row_of)
            sequence, rows_max = sequences[-1], _ROWS_AT_ONCE
            self._done += len(sequences)
            self._progress(self._done, max(self._done, self._total))

    def _sequences(self, table: sa.Table, after: int, rows_max: int) -> list[int]:
        column = table.c.sequence
        query = sa.select(column).where(column > after).order_by(column).limit(rows_max)
        with attempt(self._connection):
            return list(self._connection.execute(query).scalars())

    def _beyond_break(self, table: sa.Table, after: int) -> int:
        """The last sequence before which rows cannot be listed; a page holds so many rows at most."""
        for sequence in range(after + 1, after + _ROWS_ON_A_PAGE_MAX):
            try:
                self._sequences(table, sequence, 1)
            except sa.exc.DBAPIError:
                continue
            return sequence
        return _SEQUENCE_MAX

    def _read(
        self, table: sa.Table, sequences: list[int], row_of: Callable[..., Any]
    ) -> Iterator[tuple[int, Any]]:
        query = (
            sa.select(table)
            .where(table.c.sequence.between(sequences[0], sequences[-1]))
            .order_by(table.c.sequence)
        )
        try:
            with attempt(self._connection):
                rows = list(self._connection.execute(query))
        except sa.exc.DBAPIError:
            if len(sequences) == 1:
                yield sequences[0], None
                return
            half = len(sequences) // 2
            yield from self._read(table, sequences[:half], row_of)
            yield from self._read(table, sequences[half:], row_of)
            return
        for row in rows:
            if row_of is FoldedId:
                yield row.sequence, FoldedId(*row)
            else:
                yield row.sequence, encryption.load(self._connection, row_of, row)


def _digest(event_id: str) -> int:
    encoded = event_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big")


def _missing(first: int, last: int) -> str:
    return f"event {first} is missing" if first == last else f"events {first} to {last} are missing"


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 80 else text[:77] + "...")
