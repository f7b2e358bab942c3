"""Takes somebody's feedback out of files: exports, backups, copies of a catalogue.

Each file is read twice: first to find whose feedback it is, then to write it anew beside itself without
that; the new one takes its name once it is complete and on the disk. Where nothing is found the file is
left as it is.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from muster.v1.feedback_pb2 import Feedback
from server.catalogue import feedback as stored
from server.catalogue.backup import Record, open_backup, write_backup
from server.catalogue.export import require_unused
from server.catalogue.feedback import Erased, Wanted
from server.catalogue.rows import EventRow, FeedbackRow, LogRow
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import StoreConfig
from server.privacy.envelope import KeyEncryption, is_envelope
from server.privacy.erasure import Trail

Theirs = Callable[[str, str], bool]


def rewrite_export(path: Path, trail: Trail, keys: KeyEncryption | None = None) -> int:
    """Take the trail's rows out of an export. Returns how many. Raises: OSError, pyarrow's errors."""

    def rows(theirs: Theirs) -> Iterator[list[bool]]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["shopper", "session"]):
                pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
                yield [theirs(shopper or "", session or "") for shopper, session in pairs]

    found = sum(sum(flags) for flags in rows(trail.named))
    if trail.sessions:
        found += sum(sum(flags) for flags in rows(trail.of_session))
    if not found:
        return 0
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with (
            pq.ParquetFile(path) as file,
            pq.ParquetWriter(draft, file.schema_arrow, compression="zstd") as writer,
        ):
            for batch in file.iter_batches():
                names = zip(
                    batch.column("shopper").to_pylist(), batch.column("session").to_pylist(), strict=True
                )
                keep = [
                    not (trail.named(who or "", visit or "") or trail.of_session(who or "", visit or ""))
                    for who, visit in names
                ]
                writer.write_batch(batch.filter(pa.array(keep)))
        _replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return found


def rewrite_backup(path: Path, trail: Trail, keys: KeyEncryption | None = None) -> int:
    """Take the trail's feedback out of a backup. Returns how many events. Its digest is another one
    afterwards.

    Raises: BackupRefused, OSError.
    """

    def theirs(record: Record) -> bool:
        if not isinstance(record, LogRow | FeedbackRow):
            return False
        feedback = stored.feedback_of(record)
        if feedback is None or feedback.erased:
            return False
        return trail.named(feedback.shopper, feedback.session) or trail.of_session(
            feedback.shopper, feedback.session
        )

    found = gone = 0
    # Twice: a session is known only once a row of its shopper was seen, which may come later.
    for _ in range(2):
        with open_backup(path, keys) as reader:
            marked = [isinstance(record, FeedbackRow) for record in reader.records() if theirs(record)]
        found, gone = len(marked), sum(marked)
        if not trail.sessions:
            break
    if not found:
        return 0
    with open_backup(path, keys) as reader:

        def kept() -> Iterator[Record]:
            for record in reader.records():
                if not theirs(record):
                    yield record
                elif isinstance(record, LogRow):
                    yield stored.empty(record)

        write_backup(
            path,
            replace(reader.header, records=reader.header.records - gone),
            kept(),
            keys=keys if is_envelope(path) else None,
        )
    return found


def rewrite_copy(path: Path, trail: Trail, keys: KeyEncryption | None = None, *, store_keys: str = "") -> int:
    """Take the trail's feedback out of a catalogue that no replica serves, and write its file anew.

    store_keys: where the keys are, if it is encrypted. Returns how many events.
    Raises: StoreError; StoreUnavailable where it is in use.
    """
    require_unused(path)
    with closing(SqliteStore.open_unserved(path, StoreConfig(encryption_keys=store_keys))) as opened:
        found = erase_unserved(opened, trail)
        if found:
            opened.rewrite()
    return found


def erase_unserved(opened: SqliteStore, trail: Trail) -> int:
    """Take the trail's feedback out of an open catalogue without a fence. Returns how many events."""
    total = 0
    for theirs in (trail.named, trail.of_session):

        def wanted(row: EventRow, feedback: Feedback, theirs: Theirs = theirs) -> bool:
            return theirs(feedback.shopper, feedback.session)

        first: int | None = 1
        while first is not None:
            done = unserved_step(opened)(first, wanted, 1_000)
            total += done.log_events + done.folded_events
            first = done.next_sequence
    return total


def unserved_step(opened: SqliteStore) -> Callable[[int, Wanted, int], Erased]:
    """A step of erasing, on a catalogue that no replica serves."""

    def step(first_sequence: int, wanted: Wanted, rows_max: int) -> Erased:
        with opened.write_unserved() as transaction:
            return stored.take_out(transaction, stored.find(transaction, first_sequence, wanted, rows_max))

    return step


def _replace(draft: Path, path: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.chmod(path.stat().st_mode & 0o777)
    draft.replace(path)
