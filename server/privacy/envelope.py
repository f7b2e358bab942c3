"""Files in envelopes: AES-256-GCM under a data key of their own, which a key-encryption key wraps.

    8 bytes    b"MUSTER\\x00\\x01"
    4 bytes    length of the head
    head       JSON: {"context": ..., "key": name of the key-encryption key, "wrapped": hex, "prefix": hex}
    frames     each 4 bytes of length, then the sealed part: 64 KiB of content, the last one less or nothing

Each frame's nonce is the prefix (7 random bytes), the frame's number (4) and whether it is the last (1):
the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar: Online authenticated-encryption and its
nonce-reuse misuse-resistance, 2015). So frames can be neither changed, swapped, left out, cut off nor
taken from another file; the context (which catalogue) is bound to each as associated data. What wraps the
data key is behind `KeyEncryption`: keys in a file or in the environment here, a service for keys elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.privacy.private_file import private_draft, settle

MAGIC = b"MUSTER\x00\x01"
FRAME_BYTES = 64 * 1024
KEY_BYTES = 32

_TAG_BYTES = 16
_NONCE_BYTES = 12
_PREFIX_BYTES = 7
_HEAD_BYTES_MAX = 4096
_KEYS_BYTES_MAX = 1 << 16
_LINE = re.compile(r"([0-9a-f]{8}) ([0-9a-f]{64})", re.ASCII)


class EnvelopeRefused(Exception):
    """The envelope, or the keys to it, cannot be used; the text says why and what to do."""


class KeyEncryption(Protocol):
    """Wraps data keys. A service for keys (KMS) fits behind this: it never gives its own keys away."""

    @property
    def newest(self) -> str:
        """Name of the key that wraps from now on."""

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Wrap under the newest key. Raises: EnvelopeRefused."""

    def unwrap(self, name: str, wrapped: bytes, context: bytes) -> bytes:
        """The data key. Raises: EnvelopeRefused where the key is not there, or is another one."""


class HeldKeys:
    """Keys that this process holds: `read_keys` reads them. keys: (name, 32 bytes), the newest first."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        if not keys:
            raise EnvelopeRefused("there is no key; make one with `muster privacy new-key FILE`")
        self._keys = dict(keys)
        self._newest = keys[0][0]

    @property
    def newest(self) -> str:
        """See `KeyEncryption.newest`."""
        return self._newest

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """See `KeyEncryption.wrap`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._keys[self._newest]).encrypt(nonce, data_key, context)

    def unwrap(self, name: str, wrapped: bytes, context: bytes) -> bytes:
        """See `KeyEncryption.unwrap`."""
        key = self._keys.get(name)
        if key is None:
            raise EnvelopeRefused(f"it needs the key {name}, which is not among those given")
        try:
            return AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            raise EnvelopeRefused(f"the key {name} is another one, or its head was changed") from error


# --- keys ---------------------------------------------------------------------------------------------------


def read_keys(source: str) -> HeldKeys:
    """Keys of a file, or of the environment for `env:NAME`: lines of a name and 64 hex digits, the newest
    first.

    Raises: EnvelopeRefused.
    """
    if source.startswith("env:"):
        text = os.environ.get(source.removeprefix("env:"), "")
        if not text:
            raise EnvelopeRefused(f"the environment has no {source.removeprefix('env:')}")
    else:
        text = _read_private(Path(source))
    lines = [line for line in text.replace(";", "\n").splitlines() if line.strip()]
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    if not found or not all(found):
        raise EnvelopeRefused(f"{source} holds no keys: a line is a name of 8 and a key of 64 hex digits")
    return HeldKeys([(match[1], bytes.fromhex(match[2])) for match in found if match])


def new_key(path: Path) -> str:
    """Draw a key and put it first; the file is made where there is none. Returns the key's name.

    Raises: EnvelopeRefused, OSError.
    """
    before = ""
    if path.exists():
        read_keys(str(path))
        before = _read_private(path)
    name = secrets.token_hex(4)
    with private_draft(path) as (file, draft):
        file.write(f"{name} {secrets.token_hex(KEY_BYTES)}\n{before}".encode("ascii"))
        settle(file)
        draft.replace(path)
    return name


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise EnvelopeRefused(f"{path} can be read by others than its owner; run `chmod 600 {path}`")
            return file.read(_KEYS_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise EnvelopeRefused(f"the keys {path} cannot be read: {error.strerror}") from error


# --- envelopes ----------------------------------------------------------------------------------------------


def is_envelope(path: Path) -> bool:
    """Whether a file is in an envelope. Raises: OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class EnvelopeWriter(io.RawIOBase):
    """Seals what is written to it. `close` writes the last frame, without which nobody can open the
    envelope; the file below stays open.
    """

    def __init__(self, raw: IO[bytes], keys: KeyEncryption, context: str) -> None:
        super().__init__()
        self._raw = raw
        data_key = AESGCM.generate_key(8 * KEY_BYTES)
        self._cipher = AESGCM(data_key)
        self._context = context.encode()
        self._prefix = secrets.token_bytes(_PREFIX_BYTES)
        self._number = 0
        self._waiting = bytearray()
        wrapped = keys.wrap(data_key, self._context)
        _write_head(raw, context, keys.newest, wrapped, self._prefix)

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Take content; returns how many bytes."""
        size = len(data)
        self._waiting += data
        # One byte more than a frame: the last frame must be known as such.
        while len(self._waiting) > FRAME_BYTES:
            self._seal(bytes(self._waiting[:FRAME_BYTES]), last=False)
            del self._waiting[:FRAME_BYTES]
        return size

    def close(self) -> None:
        """Write the last frame."""
        if not self.closed:
            self._seal(bytes(self._waiting), last=True)
            self._waiting.clear()
        super().close()

    def _seal(self, content: bytes, *, last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._prefix, self._number, last), content, self._context)
        self._raw.write(len(sealed).to_bytes(4, "big") + sealed)
        self._number += 1


class EnvelopeReader(io.RawIOBase):
    """The content of an envelope. context: names the catalogue, as the head says, which each frame proves.

    Raises: EnvelopeRefused, also while reading, where the envelope was changed or cut short.
    """

    def __init__(self, raw: IO[bytes], keys: KeyEncryption) -> None:
        super().__init__()
        self._raw = raw
        head = _read_head(raw)
        self.context = str(head["context"])
        self._prefix = bytes.fromhex(head["prefix"])
        context = self.context.encode()
        self._cipher = AESGCM(keys.unwrap(str(head["key"]), bytes.fromhex(head["wrapped"]), context))
        self._number = 0
        self._content = b""
        self._ended = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the proved end."""
        while not self._content and not self._ended:
            self._content = self._open()
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size

    def _open(self) -> bytes:
        length = int.from_bytes(self._raw.read(4), "big")
        sealed = self._raw.read(length) if _TAG_BYTES <= length <= FRAME_BYTES + _TAG_BYTES else b""
        if len(sealed) != length:
            raise EnvelopeRefused(f"its frame {self._number} was changed, or is missing")
        context = self.context.encode()
        for last in (False, True):
            try:
                content = self._cipher.decrypt(_nonce(self._prefix, self._number, last), sealed, context)
            except (InvalidTag, ValueError):
                continue
            self._ended = last
            self._number += 1
            if last and self._raw.read(1):
                break
            return content
        raise EnvelopeRefused(f"its frame {self._number} was changed, or is missing")


def rewrap(path: Path, keys: KeyEncryption) -> bool:
    """Wrap an envelope's data key under the newest key; its content stays as it is. False: it is already.

    Raises: EnvelopeRefused, OSError.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with path.open("rb") as file, draft.open("xb") as written:
            head = _read_head(file)
            if head["key"] == keys.newest:
                return False
            context = str(head["context"])
            data_key = keys.unwrap(str(head["key"]), bytes.fromhex(head["wrapped"]), context.encode())
            wrapped = keys.wrap(data_key, context.encode())
            _write_head(written, context, keys.newest, wrapped, bytes.fromhex(head["prefix"]))
            while part := file.read(FRAME_BYTES):
                written.write(part)
            written.flush()
            os.fsync(written.fileno())
        draft.chmod(stat.S_IMODE(path.stat().st_mode))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])


def _head(context: str, name: str, wrapped: bytes, prefix: bytes) -> bytes:
    values = {"context": context, "key": name, "wrapped": wrapped.hex(), "prefix": prefix.hex()}
    return json.dumps(values).encode()


def _write_head(raw: IO[bytes], context: str, name: str, wrapped: bytes, prefix: bytes) -> None:
    head = _head(context, name, wrapped, prefix)
    raw.write(MAGIC + len(head).to_bytes(4, "big") + head)


def _read_head(raw: IO[bytes]) -> dict[str, Any]:
    if raw.read(len(MAGIC)) != MAGIC:
        raise EnvelopeRefused("it is no envelope")
    length = int.from_bytes(raw.read(4), "big")
    data = raw.read(length) if length <= _HEAD_BYTES_MAX else b""
    try:
        head = json.loads(data)
        prefix, wrapped = bytes.fromhex(head["prefix"]), bytes.fromhex(head["wrapped"])
        sound = (
            isinstance(head["context"], str)
            and isinstance(head["key"], str)
            and len(prefix) == _PREFIX_BYTES
            and len(wrapped) == _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
            # One spelling only: a head whose bytes changed is another one, though it says the same.
            and _head(head["context"], head["key"], wrapped, prefix) == data
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise EnvelopeRefused("its head is damaged")
    return dict(head)
