"""Files at rest in envelopes, in place: what a folder of runs or exports holds is unreadable until unsealed.

A file `NAME` becomes `NAME.sealed` (`server.privacy.envelope`); which file of the folder it is is bound to
each of its frames, so two of them cannot be exchanged. The plain file goes only after what was sealed has
been read back and was the same; a stop at any point leaves the plain file, the sealed one, or both, and the
same command goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from server.privacy.envelope import (
    FRAME_BYTES,
    EnvelopeReader,
    EnvelopeRefused,
    EnvelopeWriter,
    KeyEncryption,
    is_envelope,
)
from server.privacy.private_file import private_draft, settle, settle_folder

SUFFIX = ".sealed"


@dataclass(frozen=True)
class Sealable:
    """One file. plain: its path unsealed. context: what its frames are bound to."""

    plain: Path
    context: str

    @property
    def sealed(self) -> Path:
        """Its path in an envelope."""
        return self.plain.with_name(self.plain.name + SUFFIX)


def files_of(place: Path) -> Iterator[Sealable]:
    """The files of a folder, or the one file, sealed or not, each once and in the order of their names.

    Raises: EnvelopeRefused for what is neither a file nor a folder, links among them; OSError.
    """
    if place.is_dir() and not place.is_symlink():
        found = {
            _plain(path): path for path in sorted(place.rglob("*")) if path.is_symlink() or not path.is_dir()
        }
        for plain, path in found.items():
            _require_file(path)
            yield Sealable(plain, f"file:{plain.relative_to(place).as_posix()}")
        return
    _require_file(place)
    yield Sealable(_plain(place), f"file:{_plain(place).name}")


def seal(file: Sealable, keys: KeyEncryption) -> bool:
    """Put it into an envelope. False: it is in one already.

    Raises: EnvelopeRefused, also where a sealed file of the same name holds something else; OSError.
    """
    if not file.plain.exists() or is_envelope(file.plain):
        return False
    digest = _digest(file.plain)
    if not file.sealed.exists():
        with _in_place(file.sealed, file.plain) as written, file.plain.open("rb") as content:
            writer = EnvelopeWriter(written, keys, file.context)
            _copy(content, writer)
            writer.close()
    if _sealed_digest(file, keys) != digest:
        raise EnvelopeRefused(f"{file.sealed} does not hold what {file.plain} holds; move one of them away")
    file.plain.unlink()
    settle_folder(file.plain.parent)
    return True


def unseal(file: Sealable, keys: KeyEncryption) -> bool:
    """Take it out of its envelope. False: it is in none.

    Raises: EnvelopeRefused, also where a plain file of the same name holds something else; OSError.
    """
    if not file.sealed.exists():
        return False
    digest = _sealed_digest(file, keys)
    if not file.plain.exists():
        with _in_place(file.plain, file.sealed) as written, file.sealed.open("rb") as content:
            _copy(_opened(content, file, keys), written)
    if _digest(file.plain) != digest:
        raise EnvelopeRefused(f"{file.plain} does not hold what {file.sealed} holds; move one of them away")
    file.sealed.unlink()
    settle_folder(file.plain.parent)
    return True


@contextmanager
def _in_place(path: Path, like: Path) -> Iterator[IO[bytes]]:
    """A new file, under its name once all of it was written, with the times of `like`."""
    with private_draft(path) as (file, draft):
        yield file
        settle(file)
        state = like.stat()
        os.utime(draft, ns=(state.st_atime_ns, state.st_mtime_ns))
        draft.replace(path)
    settle_folder(path.parent)


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX)) if path.name != SUFFIX else path


def _require_file(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        told = "is a link" if path.is_symlink() else "is no file" if path.exists() else "is not there"
        raise EnvelopeRefused(f"{path} {told}; only files and folders of files can be sealed")


def _opened(content: IO[bytes], file: Sealable, keys: KeyEncryption) -> EnvelopeReader:
    try:
        reader = EnvelopeReader(content, keys)
    except EnvelopeRefused as error:
        raise EnvelopeRefused(f"{file.sealed}: {error}") from error
    if reader.context != file.context:
        raise EnvelopeRefused(
            f"{file.sealed} was sealed as {reader.context}, not as {file.context}; give it its name"
        )
    return reader


def _sealed_digest(file: Sealable, keys: KeyEncryption) -> bytes:
    with file.sealed.open("rb") as content:
        reader = _opened(content, file, keys)
        try:
            return _digest_of(reader)
        except EnvelopeRefused as error:
            raise EnvelopeRefused(f"{file.sealed}: {error}") from error


def _digest(path: Path) -> bytes:
    with path.open("rb") as content:
        return _digest_of(content)


def _digest_of(content: IO[bytes] | EnvelopeReader) -> bytes:
    digest = hashlib.sha256()
    while part := content.read(FRAME_BYTES):
        digest.update(part)
    return digest.digest()


def _copy(content: IO[bytes] | EnvelopeReader, written: IO[bytes] | EnvelopeWriter) -> None:
    while part := content.read(FRAME_BYTES):
        written.write(part)
