"""Looks for a text in the bytes of files: as it is, and in every form of `muster.privacy.forms`.

What is packed is unpacked first: envelopes, gzip (backups), Parquet (exports, whose pages are compressed).
Of a database on a server every column of every table is read; its own files are the server's.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from muster.privacy.forms import forms_of
from server.catalogue import encryption, schema
from server.catalogue.errors import SchemaMismatch, StoreError
from server.catalogue.inspection import reading
from server.catalogue.rows import EventRow, FeedbackRow, LogRow, SnapshotRow
from server.privacy.envelope import EnvelopeReader, EnvelopeRefused, KeyEncryption, is_envelope

_PART_BYTES = 1 << 20
_GZIP, _PARQUET, _SQLITE = b"\x1f\x8b", b"PAR1", b"SQLi"
_KINDS: dict[str, type[EventRow] | type[SnapshotRow]] = {
    "log": LogRow,
    "feedback": FeedbackRow,
    "snapshot": SnapshotRow,
}


@dataclass(frozen=True)
class Find:
    """The text was found. place: a file, or a table of a database. form: how it was written. what: which of
    the texts, by the name it was given.
    """

    place: str
    form: str
    what: str


@dataclass
class Scanned:
    """What was looked through. unread: files that could not be read, with the reason."""

    files: int = 0
    bytes: int = 0
    finds: tuple[Find, ...] = ()
    unread: tuple[str, ...] = ()


class Scan:
    """Looks for some texts. texts: by the name under which a find is told, which is not the text itself.

    keys: to backups. store_keys: where the keys to catalogues are.
    """

    def __init__(
        self, texts: Mapping[str, str], keys: KeyEncryption | None = None, store_keys: str = ""
    ) -> None:
        self._keys = keys
        self._store_keys = store_keys
        self._needles = [
            (what, form, data) for what, text in texts.items() for form, data in forms_of(text).items()
        ]
        self._longest = max((len(data) for _, _, data in self._needles), default=1)
        self.result = Scanned()

    def folder(self, folder: Path) -> None:
        """Look through every file below a folder. Links are not followed."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.file(path)

    def file(self, path: Path) -> None:
        """Look through one file, as it lies and unpacked."""
        try:
            with path.open("rb") as file:
                head = file.read(4)
                file.seek(0)
                self._look(str(path), _parts(file))
            self.result.files += 1
            if is_envelope(path):
                self._sealed(path)
            elif head == _SQLITE:
                self._encrypted_catalogue(path)
            elif head[:2] == _GZIP:
                with gzip.open(path) as file:
                    self._look(str(path), _parts(file))
            elif head == _PARQUET:
                self._look(str(path), _columns(path))
        except (OSError, EOFError, zlib.error, pa.ArrowException, EnvelopeRefused) as error:
            self.result.unread += (f"{path}: {error}",)

    def _sealed(self, path: Path) -> None:
        """What is in an envelope. Raises: EnvelopeRefused, OSError."""
        if self._keys is None:
            raise EnvelopeRefused("it is encrypted; name its keys with --keys")
        with path.open("rb") as raw:
            content = io.BufferedReader(EnvelopeReader(raw, self._keys))
            head = content.peek(4)[:4]
            if head[:2] == _GZIP:
                self._look(str(path), _parts(gzip.GzipFile(fileobj=content, mode="rb")))
            elif head == _PARQUET:
                # Its index stands at the end: the whole of it, in memory only.
                self._look(str(path), _columns(pa.BufferReader(content.read())))
            else:
                self._look(str(path), _parts(content))
        if head == _SQLITE:
            self.result.unread += (
                f"{path}: a sealed catalogue; its encrypted rows are read once it is unsealed",
            )

    def _encrypted_catalogue(self, path: Path) -> None:
        """What a catalogue's encrypted rows say; a plain one's bytes have said it."""
        try:
            with reading(path, self._store_keys) as connection:
                if connection.execute(sa.select(schema.data_key.c.name)).first() is not None:
                    for table in schema.metadata.tables.values():
                        self._look(str(path), _cells(connection, table))
        except SchemaMismatch:
            pass  # Another database, or a catalogue from before there was encryption.
        except StoreError as error:
            self.result.unread += (f"{path}: {error}",)

    def database(self, location: str) -> None:
        """Look through all tables of a catalogue. Raises: StoreError."""
        with reading(location, self._store_keys) as connection:
            for table in schema.metadata.tables.values():
                self._look(f"{location}, table {table.name}", _cells(connection, table))

    def _look(self, place: str, parts: Iterable[bytes]) -> None:
        before = b""
        open_needles = list(self._needles)
        for part in parts:
            self.result.bytes += len(part)
            window = before + part
            for needle in [needle for needle in open_needles if needle[2] in window]:
                open_needles.remove(needle)
                find = Find(place, needle[1], needle[0])
                if find not in self.result.finds:
                    self.result.finds += (find,)
            before = window[-self._longest :]


def _parts(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while part := file.read(_PART_BYTES):
        yield part


def _columns(source: Path | pa.BufferReader) -> Iterator[bytes]:
    """The texts and bytes of a Parquet file, column by column."""
    with pq.ParquetFile(source) as file:
        yield repr(file.schema_arrow.metadata).encode()
        for batch in file.iter_batches():
            for column in batch.columns:
                yield b"\0".join(_bytes_of(value) for value in column.to_pylist()) + b"\0"


def _cells(connection: sa.Connection, table: sa.Table) -> Iterator[bytes]:
    with connection.execute(sa.select(table), execution_options={"yield_per": 500}) as rows:
        for row in rows:
            values = list(row)
            if (kind := _KINDS.get(table.name)) is not None:
                values.append(encryption.load(connection, kind, row).payload)
            yield b"\0".join(_bytes_of(value) for value in values) + b"\0"


def _bytes_of(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
