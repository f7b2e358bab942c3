"""Encryption of what the store's rows say, when keys are given: AES-256-GCM, a record at a time.

    2 bytes    b"\x00\x01": no protobuf message begins so, which tells an encrypted payload from a plain one
    4 bytes    name of the data key
    12 bytes   nonce, random
    rest       the payload, encrypted, and its tag

The associated data are the catalogue's name and every other column of the row, so no record can stand in
another one's place, or in another catalogue. The checksum, which is of the plain payload and by which a
guess could be tried, is masked: XOR with BLAKE2b of the nonce under a key drawn from the data key. What is
damaged can so still be proved by a copy (`server.catalogue.repair`).

Data keys are in the table `data_key`, each wrapped by a key-encryption key, which never is in the store
(`server.privacy.envelope.KeyEncryption`). A data key encrypts what is written for at most `_EVENTS_MAX`
events; a new key-encryption key brings a new data key, and wraps the old ones again.

Ids, sequences, times and epochs stay plain: the database finds rows by them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.catalogue import checksum, schema
from server.catalogue.errors import CatalogueEncrypted
from server.catalogue.rows import EventRow, SnapshotRow, SnapshotState, as_values
from server.privacy.envelope import KEY_BYTES, EnvelopeRefused, KeyEncryption, read_keys

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=EventRow | SnapshotRow)

OPTION = "muster_encryption"
"""Execution option of an engine: the `Encryption` of its catalogue."""

MARK = b"\x00\x01"

_NAME_BYTES = 4
_NONCE_BYTES = 12
_HEAD_BYTES = len(MARK) + _NAME_BYTES + _NONCE_BYTES
# Random nonces of 96 bits are good for 2^32 records of a key (NIST SP 800-38D, section 8.3). An event is
# written at most four times: appended, emptied, folded, encrypted anew.
_EVENTS_MAX = 1 << 29
# Records after which a process looks again whether its data key is still good.
_RECORDS_MAX = 1 << 24
# Between two looks at the file of keys.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """What of a row is encrypted. content: the payload. seal: the row's checksum, 8 bytes."""

    content: bytes
    seal: bytes


@dataclass(frozen=True)
class DataKey:
    """A data key, ready for use. name: its place in `data_key`. wrapped_by: a key-encryption key's name."""

    name: bytes
    wrapped_by: str
    cipher: AESGCM
    mask_key: bytes

    @classmethod
    def of(cls, name: str, wrapped_by: str, key: bytes) -> DataKey:
        """Take the 32 bytes of a key."""
        mask_key = hashlib.blake2b(key=key, digest_size=32, person=b"muster mask").digest()
        return cls(bytes.fromhex(name), wrapped_by, AESGCM(key), mask_key)

    def mask(self, nonce: bytes, plain: bytes) -> bytes:
        """Hide a checksum, or show it again."""
        stream = hashlib.blake2b(nonce, key=self.mask_key, digest_size=checksum.CHECKSUM_BYTES).digest()
        return checksum.combined(stream, plain)


@dataclass(frozen=True)
class Rewrapped:
    """Data keys were wrapped anew. key: the newest key-encryption key's name. done: how many data keys.

    left: names of those whose data keys stay under them: they are not among the keys given.
    """

    key: str
    done: int
    left: tuple[str, ...]


class Encryption:
    """Of one catalogue, as one process sees it. Thread-safe.

    source: where the key-encryption keys are (`server.privacy.envelope.read_keys`); empty: there are none,
    and an encrypted catalogue is refused. read: reads them; a service for keys has one of its own.
    """

    def __init__(self, source: str = "", read: Callable[[str], KeyEncryption] = read_keys) -> None:
        self._source = source
        self._read = read
        self._lock = threading.Lock()
        self._keys: KeyEncryption | None = None
        self._keys_state: object = None
        self._look_at_s = 0.0
        self._problem = ""
        self._data_keys: dict[bytes, DataKey] = {}
        self._catalogue = b""
        self._current: DataKey | None = None
        self._records = 0

    @property
    def configured(self) -> bool:
        """There are keys: what is written is encrypted."""
        return bool(self._source)

    # --- keys --------------------------------------------------------------------------------------------

    def check(self, transaction: sa.Connection) -> None:
        """The keys can be read, and open what is there. Raises: CatalogueEncrypted."""
        rows = list(transaction.execute(sa.select(schema.data_key)))
        if not self.configured:
            if rows:
                raise CatalogueEncrypted(
                    "the catalogue is encrypted; name its keys in catalogue.encryption_keys (of a command:"
                    " --store-keys)"
                )
            return
        self._key_encryption()
        for row in rows:
            self._load(transaction, bytes.fromhex(row.name))

    def due(self) -> bool:
        """Whether `renew` must come before anything is written."""
        if not self.configured:
            return False
        current = self._current
        if current is None or self._records >= _RECORDS_MAX:
            return True
        try:
            return self._key_encryption().newest != current.wrapped_by
        except CatalogueEncrypted as error:
            # What is in use is as good as before; a file that is being copied will be whole soon.
            self._report(str(error))
            return False

    def renew(self, transaction: sa.Connection) -> DataKey:
        """Find the data key to write with, or draw one; wrap those of older keys anew.

        transaction: a write one. The key may be used once that is committed (`use`), not before: what it
        encrypts is lost without its row. Raises: CatalogueEncrypted.
        """
        keys = self._key_encryption()
        _rewrap(transaction, keys, self._name_of_catalogue(transaction))
        table = schema.data_key
        head = int(transaction.execute(sa.select(sa.func.max(schema.log.c.sequence))).scalar() or 0)
        newest = transaction.execute(sa.select(table).order_by(table.c.first_sequence.desc())).first()
        # A new key-encryption key is a new beginning: whoever had the old one reads nothing that comes.
        used_up = newest is None or head - newest.first_sequence >= _EVENTS_MAX
        if newest is not None and not used_up and newest.drawn_under == keys.newest:
            return replace(self._load(transaction, bytes.fromhex(newest.name)), wrapped_by=keys.newest)
        name, key = secrets.token_hex(_NAME_BYTES), secrets.token_bytes(KEY_BYTES)
        transaction.execute(
            sa.insert(table).values(
                name=name,
                drawn_under=keys.newest,
                wrapped_by=keys.newest,
                wrapped=_wrap(keys, key, self._context(name)),
                first_sequence=max(head, newest.first_sequence + 1 if newest is not None else 0),
                created_unix_us=time.time_ns() // 1000,
            )
        )
        return DataKey.of(name, keys.newest, key)

    def rewrap(self, transaction: sa.Connection) -> Rewrapped:
        """Wrap every data key under the newest key, in a write transaction. Raises: CatalogueEncrypted."""
        return _rewrap(transaction, self._key_encryption(), self._name_of_catalogue(transaction))

    def use(self, data_key: DataKey) -> None:
        """Write with this key from now on."""
        with self._lock:
            self._data_keys[data_key.name] = data_key
            # Whatever wraps it: it was found under the newest key.
            self._current = data_key
            self._records = 0

    def _key_encryption(self) -> KeyEncryption:
        """The keys, read again when their file has changed. Raises: CatalogueEncrypted."""
        now_s = time.monotonic()
        with self._lock:
            if self._keys is not None and now_s < self._look_at_s:
                return self._keys
            self._look_at_s = now_s + _LOOK_S
            state = _state(self._source)
            if self._keys is None or state != self._keys_state:
                try:
                    self._keys = self._read(self._source)
                except EnvelopeRefused as refused:
                    raise CatalogueEncrypted(f"catalogue.encryption_keys: {refused}") from refused
                self._keys_state = state
                self._problem = ""
            return self._keys

    def _load(self, transaction: sa.Connection, name: bytes) -> DataKey:
        """A data key of the table. Raises: CatalogueEncrypted; KeyError where there is no such key."""
        if (found := self._data_keys.get(name)) is not None:
            return found
        table = schema.data_key
        row = transaction.execute(sa.select(table).where(table.c.name == name.hex())).first()
        if row is None:
            raise KeyError(name)
        if not self.configured:
            raise CatalogueEncrypted("the catalogue is encrypted; name its keys in catalogue.encryption_keys")
        self._name_of_catalogue(transaction)
        keys = self._key_encryption()
        try:
            key = keys.unwrap(row.wrapped_by, row.wrapped, self._context(row.name))
        except EnvelopeRefused as refused:
            raise CatalogueEncrypted(f"the catalogue's data key {row.name}: {refused}") from refused
        data_key = DataKey.of(row.name, row.wrapped_by, key)
        with self._lock:
            self._data_keys[name] = data_key
        return data_key

    def _name_of_catalogue(self, transaction: sa.Connection) -> bytes:
        if not self._catalogue:
            self._catalogue = schema.cluster_id(transaction).encode()
        return self._catalogue

    def _context(self, name: str) -> bytes:
        return _context(self._catalogue, name)

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning("%s; what is written goes on under the key that was there", problem)
        self._problem = problem

    # --- records -----------------------------------------------------------------------------------------

    def encrypted(self, transaction: sa.Connection, bound: bytes, record: Record) -> Record:
        """The record as it is to be stored. bound: what it is bound to, beside its catalogue.

        Raises: CatalogueEncrypted where `renew` was due.
        """
        data_key = self._current
        if data_key is None:
            raise CatalogueEncrypted("no data key was prepared for this write")
        self._records += 1
        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = self._name_of_catalogue(transaction) + b"\0" + bound
        content = MARK + data_key.name + nonce + data_key.cipher.encrypt(nonce, record.content, bound)
        return Record(content, data_key.mask(nonce, record.seal))

    def decrypted(self, transaction: sa.Connection, bound: bytes, stored: Record) -> Record:
        """A stored record as it was before. One that was changed comes as it lies: it does not match its
        checksum. Raises: CatalogueEncrypted where its key is missing.
        """
        content, seal = stored.content, stored.seal
        name, nonce, sealed = content[2:6], content[6:_HEAD_BYTES], content[_HEAD_BYTES:]
        try:
            data_key = self._load(transaction, name)
            seal = data_key.mask(nonce, seal)
            bound = self._name_of_catalogue(transaction) + b"\0" + bound
            return Record(data_key.cipher.decrypt(nonce, sealed, bound), seal)
        except (KeyError, InvalidTag, ValueError, TypeError):
            return Record(content, seal)


WITHOUT_KEYS = Encryption()


def of(connection: sa.Connection) -> Encryption:
    """The encryption of the catalogue that a connection is of."""
    found = connection.get_execution_options().get(OPTION, WITHOUT_KEYS)
    assert isinstance(found, Encryption)
    return found


def is_encrypted(payload: object) -> bool:
    """Whether a stored payload is encrypted."""
    return isinstance(payload, bytes) and payload[: len(MARK)] == MARK and len(payload) >= _HEAD_BYTES


def load(transaction: sa.Connection, kind: Callable[..., R], values: Any) -> R:
    """The row that the columns of a table hold, in their order, decrypted. Raises: CatalogueEncrypted."""
    row = kind(*values)
    if not is_encrypted(row.payload):
        return row
    stored = Record(row.payload, row.checksum or b"")
    plain = of(transaction).decrypted(transaction, _bound(row), stored)
    return replace(row, payload=plain.content, checksum=plain.seal)


def columns(transaction: sa.Connection, row: EventRow | SnapshotRow) -> dict[str, Any]:
    """The columns of a row by name, as they are to be stored. Raises: CatalogueEncrypted."""
    encryption = of(transaction)
    values = as_values(row)
    if encryption.configured:
        record = Record(row.payload, row.checksum or row.true_checksum())
        stored = encryption.encrypted(transaction, _bound(row), record)
        values.update(payload=stored.content, checksum=stored.seal)
    return values


def load_state(
    transaction: sa.Connection, sequence: int, epoch: int, products: int, stored: Record
) -> Record:
    """The checksums of the snapshot's state: of its rows, and its own."""
    if not is_encrypted(stored.content):
        return stored
    return of(transaction).decrypted(transaction, _front(b"state", (sequence, epoch, products), ""), stored)


def state_record(transaction: sa.Connection, state: SnapshotState) -> Record:
    """The checksums of a state as they are to be stored. Raises: CatalogueEncrypted."""
    encryption = of(transaction)
    record = Record(state.rows_checksum, state.seal())
    if not encryption.configured:
        return record
    bound = _front(b"state", (state.sequence, state.epoch, state.products), "")
    return encryption.encrypted(transaction, bound, record)


def _rewrap(transaction: sa.Connection, keys: KeyEncryption, catalogue: bytes) -> Rewrapped:
    """Wrap every data key under the newest key."""
    table = schema.data_key
    done = 0
    left: set[str] = set()
    for row in list(transaction.execute(sa.select(table).where(table.c.wrapped_by != keys.newest))):
        bound = _context(catalogue, row.name)
        try:
            wrapped = _wrap(keys, keys.unwrap(row.wrapped_by, row.wrapped, bound), bound)
        except (EnvelopeRefused, CatalogueEncrypted) as refused:
            logger.warning("the catalogue's data key %s is not wrapped anew: %s", row.name, refused)
            left.add(row.wrapped_by)
            continue
        transaction.execute(
            sa.update(table).where(table.c.name == row.name).values(wrapped_by=keys.newest, wrapped=wrapped)
        )
        done += 1
    return Rewrapped(keys.newest, done, tuple(sorted(left)))


def _context(catalogue: bytes, name: str) -> bytes:
    """What a data key's wrapping is bound to."""
    return b"data key\0" + catalogue + b"\0" + name.encode()


def _wrap(keys: KeyEncryption, key: bytes, bound: bytes) -> bytes:
    try:
        return keys.wrap(key, bound)
    except EnvelopeRefused as refused:
        raise CatalogueEncrypted(f"a data key cannot be wrapped: {refused}") from refused


def _state(source: str) -> object:
    """Differs once the file of keys is another one; of the environment it never does."""
    if source.startswith("env:"):
        return None
    try:
        found = Path(source).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, os.fspath(source)


def _bound(row: EventRow | SnapshotRow) -> bytes:
    """Everything that a row says beside its content. A row of `feedback` is one of the log that was moved."""
    if isinstance(row, SnapshotRow):
        numbers = (row.sequence, row.changed_sequence, row.epoch, row.committed_unix_us)
        return _front(b"product", numbers, row.product_id)
    return _front(b"event", (row.sequence, row.epoch, row.committed_unix_us), row.event_id)


def _front(kind: bytes, numbers: tuple[int, ...], text: str) -> bytes:
    try:
        packed = struct.pack(f">{len(numbers)}q", *numbers)
        return kind + b"\0" + packed + text.encode("utf-8", "surrogatepass")
    except (AttributeError, TypeError, struct.error):
        return b""  # A damaged row may even hold values of another kind. Nothing was bound to this.
