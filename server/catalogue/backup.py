"""A backup: snapshot, log and the ids of folded events in one file that a person can look into.

gzip of lines of JSON, streamed both ways:

    {"format": "muster-catalogue", "version": 1, "cluster_id": ..., "created_unix_us": ...,
     "lease_epoch": ..., "snapshot_sequence": ..., "head_sequence": ..., "head_epoch": ..., "records": ...}

    the state of the snapshot:
    {"kind": "state", "sequence": ..., "epoch": ..., "products": ..., "rows_checksum": hex}
    for each id of a folded event that is known:
    {"kind": "event_id", "sequence": ..., "event_id": ..., "committed_unix_us": ...}
    for each event of feedback that was folded (since version 2):
    {"kind": "feedback", as an event of the log}
    for each product of the snapshot:
    {"kind": "product", "sequence": ..., "changed_sequence": ..., "epoch": ..., "product_id": ...,
     "committed_unix_us": ..., "payload": base64 of the `Event`, "checksum": hex}
    for each event of the log:
    {"kind": "event", "sequence": ..., "epoch": ..., "event_id": ..., "committed_unix_us": ...,
     "payload": base64 of the `Event`, "checksum": hex}

    {"kind": "end", "records": ..., "digest": SHA-256 of all lines but the first and the last, hex}

Kinds come in this order, each by rising sequence. Lines are written in one way only (these keys in this
order, no spaces, ASCII), so the digest is the same wherever the content is. The checksums are the store's
own. A reader parses and checks; nothing in the file is ever executed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from server.catalogue.checksum import combined
from server.catalogue.errors import StoreError
from server.catalogue.rows import (
    EMPTY_CHECKSUM,
    FeedbackRow,
    FoldedId,
    LogRow,
    SnapshotRow,
    SnapshotState,
    as_values,
)
from server.privacy.envelope import (
    EnvelopeReader,
    EnvelopeRefused,
    EnvelopeWriter,
    KeyEncryption,
    is_envelope,
)

FORMAT = "muster-catalogue"
VERSION = 2
_VERSIONS_READ = (1, 2)

# A product may have some hundreds of kilobytes; base64 and JSON add a third.
_LINE_BYTES_MAX = 64 * 2**20
# The least that compresses well: higher ones take much longer for a few per cent.
_GZIP_LEVEL = 3
_WHOLE_MAX = 2**63 - 1

Progress: TypeAlias = Callable[[int, int], None]
"""Records done, records in all."""


class BackupRefused(StoreError):
    """The file is not a whole, undamaged backup; the text says which file and where it fails."""


Record: TypeAlias = SnapshotState | FoldedId | FeedbackRow | SnapshotRow | LogRow


@dataclass(frozen=True)
class Header:
    """What a backup says of itself on its first line. records: lines between the first and the last."""

    cluster_id: str
    created_unix_us: int
    lease_epoch: int
    snapshot_sequence: int
    head_sequence: int
    head_epoch: int
    records: int


@dataclass(frozen=True)
class Written:
    """A backup that was written, or one that was read to its end. digest: SHA-256, lower-case hex."""

    header: Header
    digest: str


class Digest:
    """SHA-256 over records, as a backup of them would have it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.records = 0

    def add(self, record: Record) -> bytes:
        """Take the next record in; returns its line."""
        line = _line(record)
        self._hash.update(line)
        self.records += 1
        return line

    def hex(self) -> str:
        """The digest of what was added."""
        return self._hash.hexdigest()


# --- writing ---------------------------------------------------------------------------------------------


def write_backup(
    path: Path,
    header: Header,
    records: Iterator[Record],
    progress: Progress = lambda done, total: None,
    *,
    keys: KeyEncryption | None = None,
) -> Written:
    """Write a backup, whole or not at all: the file gets its name once it is complete and on the disk.

    records: in the order of the format. keys: it goes into an envelope of the catalogue's. Raises:
    OSError; what `records` raises.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    digest = Digest()
    try:
        with draft.open("xb") as raw:
            with (
                _envelope(raw, keys, header.cluster_id) as inner,
                gzip.GzipFile("", "wb", _GZIP_LEVEL, inner, mtime=0) as file,
            ):
                file.write(_json_line({"format": FORMAT, "version": VERSION, **vars(header)}))
                for record in records:
                    file.write(digest.add(record))
                    if digest.records % 1000 == 0:
                        progress(digest.records, header.records)
                file.write(_json_line({"kind": "end", "records": digest.records, "digest": digest.hex()}))
            raw.flush()
            os.fsync(raw.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    progress(digest.records, header.records)
    return Written(header, digest.hex())


@contextmanager
def _envelope(raw: IO[bytes], keys: KeyEncryption | None, cluster_id: str) -> Iterator[Any]:
    """Where to write the backup. What fails inside leaves an envelope that nobody can open."""
    if keys is None:
        yield raw
        return
    writer = EnvelopeWriter(raw, keys, cluster_id)
    yield writer
    writer.close()


def now_unix_us() -> int:
    """The wall clock."""
    return time.time_ns() // 1000


_KIND_OF_ROW = {LogRow: "event", SnapshotRow: "product", FeedbackRow: "feedback"}


def _line(record: Record) -> bytes:
    values: dict[str, Any]
    if isinstance(record, SnapshotState):
        values = {
            "kind": "state",
            "sequence": record.sequence,
            "epoch": record.epoch,
            "products": record.products,
            "rows_checksum": record.rows_checksum.hex(),
        }
    elif isinstance(record, FoldedId):
        values = {"kind": "event_id", **as_values(record)}
    else:
        values = {"kind": _KIND_OF_ROW[type(record)], **as_values(record)}
        values["payload"] = base64.b64encode(record.payload).decode("ascii")
        values["checksum"] = record.true_checksum().hex()
    return _json_line(values)


def _json_line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode("ascii") + b"\n"


# --- reading ---------------------------------------------------------------------------------------------


class BackupReader:
    """A backup being read: `header` at once, then `records`, once; `written` after the last one."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        """Use `open_backup`."""
        self._path = path
        self._file = file
        self._number = 0
        self._digest = Digest()
        self.written: Written | None = None
        self.header = self._header()

    def records(self) -> Iterator[Record]:
        """Every record, each checked by itself and in its place.

        What has been yielded is proved only when the iteration ends: only then the digest was compared.
        Raises: BackupRefused, naming the line.
        """
        order = _Order(self.header)
        while True:
            values = self._next_line()
            if values.get("kind") == "end":
                break
            record = self._record(values)
            if problem := order.problem(record):
                raise self._refused(problem)
            self._digest.add(record)
            yield record
        if problem := order.problem_at_end(self._digest.records):
            raise self._refused(problem)
        if values.get("digest") != self._digest.hex() or values.get("records") != self._digest.records:
            raise self._refused("the digest does not match what the file holds")
        if self._read_line():
            raise self._refused("something follows the end")
        self.written = Written(self.header, self._digest.hex())

    def _header(self) -> Header:
        values = self._next_line()
        if values.get("format") != FORMAT:
            raise self._refused("it is not a backup of a Muster catalogue")
        if values.get("version") not in _VERSIONS_READ:
            raise self._refused(
                f"its format has version {values.get('version')!r}; up to {VERSION} is readable"
            )
        return Header(
            cluster_id=self._text(values, "cluster_id"),
            created_unix_us=self._whole(values, "created_unix_us"),
            lease_epoch=self._whole(values, "lease_epoch"),
            snapshot_sequence=self._whole(values, "snapshot_sequence"),
            head_sequence=self._whole(values, "head_sequence"),
            head_epoch=self._whole(values, "head_epoch"),
            records=self._whole(values, "records"),
        )

    def _record(self, values: dict[str, Any]) -> Record:
        kind = values.get("kind")
        sequence = self._whole(values, "sequence")
        if kind == "state":
            return SnapshotState(
                sequence,
                self._whole(values, "epoch"),
                self._whole(values, "products"),
                self._bytes(values, "rows_checksum", bytes.fromhex),
            )
        committed_unix_us = self._whole(values, "committed_unix_us")
        if kind == "event_id":
            return FoldedId(sequence, self._text(values, "event_id"), committed_unix_us)
        epoch = self._whole(values, "epoch")
        payload = self._bytes(values, "payload", lambda text: base64.b64decode(text, validate=True))
        seal = self._bytes(values, "checksum", bytes.fromhex)
        row: FeedbackRow | LogRow | SnapshotRow
        if kind in ("event", "feedback"):
            row = (LogRow if kind == "event" else FeedbackRow)(
                sequence, epoch, self._text(values, "event_id"), committed_unix_us, payload, seal
            )
        elif kind == "product":
            changed = self._whole(values, "changed_sequence")
            product_id = self._text(values, "product_id")
            row = SnapshotRow(sequence, changed, epoch, product_id, committed_unix_us, payload, seal)
        else:
            raise self._refused(f"there is no record of kind {kind!r}")
        if fault := row.fault():
            raise self._refused(f"the record of sequence {sequence} {fault}")
        return row

    # --- lines and fields --------------------------------------------------------------------------------

    def _read_line(self) -> bytes:
        self._number += 1
        try:
            return self._file.readline(_LINE_BYTES_MAX)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._refused(f"the file is cut short or damaged ({error})") from error

    def _next_line(self) -> dict[str, Any]:
        line = self._read_line()
        if not line:
            raise self._refused("the file ends before its end record")
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the line does not end")
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._refused(f"it is not JSON as a backup has it ({error})") from error
        if not isinstance(values, dict):
            raise self._refused("it is not a JSON object")
        return values

    def _whole(self, values: dict[str, Any], name: str) -> int:
        value = values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _WHOLE_MAX:
            raise self._refused(f"{name} is not a whole number from 0")
        return value

    def _text(self, values: dict[str, Any], name: str) -> str:
        value = values.get(name)
        if not isinstance(value, str):
            raise self._refused(f"{name} is not a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._refused(f"{name} is not a text") from error
        return value

    def _bytes(self, values: dict[str, Any], name: str, decode: Callable[[str], bytes]) -> bytes:
        try:
            return decode(self._text(values, name))
        except (ValueError, binascii.Error) as error:
            raise self._refused(f"{name} cannot be decoded") from error

    def _refused(self, problem: str) -> BackupRefused:
        return BackupRefused(f"{self._path} is refused, line {self._number}: {problem}")


@contextmanager
def open_backup(path: Path, keys: KeyEncryption | None = None) -> Iterator[BackupReader]:
    """Open a backup and read its header. keys: to the envelope it may be in. Raises: BackupRefused;
    OSError.
    """
    try:
        with path.open("rb") as raw:
            source: Any = raw
            if is_envelope(path):
                if keys is None:
                    raise BackupRefused(f"{path} is encrypted; name its keys with --keys FILE")
                source = EnvelopeReader(raw, keys)
            with gzip.GzipFile(fileobj=source, mode="rb") as file:
                reader = BackupReader(path, file)  # type: ignore[arg-type]
                if source is not raw and source.context != reader.header.cluster_id:
                    raise BackupRefused(f"{path} is in the envelope of another catalogue")
                yield reader
    except EnvelopeRefused as refused:
        raise BackupRefused(f"{path} is refused: {refused}") from refused


class _Order:
    """Where each record must stand: what the format says, and what makes a log without holes."""

    _KINDS = (SnapshotState, FoldedId, FeedbackRow, SnapshotRow, LogRow)

    def __init__(self, header: Header) -> None:
        self._header = header
        self._kind = 0
        self._sequence = 0
        self._state: SnapshotState | None = None
        self._products = 0
        self._rows_checksum = EMPTY_CHECKSUM
        self._epoch = 0

    def problem(self, record: Record) -> str:
        """Why the record cannot stand here; empty: it may."""
        kind = self._KINDS.index(type(record))
        if self._state is None and kind:
            return "the state of the snapshot is missing"
        if kind < self._kind or (kind == 0 and self._state is not None):
            return "the record stands in the wrong place"
        if kind > self._kind:
            self._kind = kind
            self._sequence = self._header.snapshot_sequence if kind == 4 else 0
        if isinstance(record, SnapshotState):
            self._state = record
            self._epoch = record.epoch
            wrong = record.sequence != self._header.snapshot_sequence
            return "the snapshot is not the one that the first line names" if wrong else ""
        expected = self._sequence + 1
        self._sequence = record.sequence
        if isinstance(record, LogRow):
            if record.sequence != expected:
                return f"event {expected} is missing"
            if record.epoch < self._epoch:
                return f"event {record.sequence} is of epoch {record.epoch}, after one of {self._epoch}"
            self._epoch = record.epoch
            return ""
        if isinstance(record, SnapshotRow):
            self._products += 1
            self._rows_checksum = combined(self._rows_checksum, record.checksum)
        if not expected <= record.sequence <= self._header.snapshot_sequence:
            return f"sequence {record.sequence} stands in the wrong place"
        return ""

    def problem_at_end(self, records: int) -> str:
        """What is missing at the end; empty: nothing."""
        if self._state is None:
            return "the state of the snapshot is missing"
        if records != self._header.records:
            return f"it holds {records} records, the first line says {self._header.records}"
        if self._products != self._state.products:
            return f"it holds {self._products} products of the snapshot's {self._state.products}"
        if self._rows_checksum != self._state.rows_checksum:
            return "its products do not match the checksum of them all"
        head = self._sequence if self._kind == 4 else self._state.sequence
        if (head, self._epoch) != (self._header.head_sequence, self._header.head_epoch):
            return f"it ends at event {head}, the first line says {self._header.head_sequence}"
        return ""
