"""Digests of bundle files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def digest_file(path: Path, *, bytes_max: int | None = None) -> tuple[str, int]:
    """Read a file once: its sha256 as lower-case hex, and its size in bytes.

    bytes_max: stop once more than this was read, so a file far larger than declared costs nothing; the size
    returned is then above bytes_max.
    Raises: OSError.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
            if bytes_max is not None and size > bytes_max:
                break
    return digest.hexdigest(), size


def bundle_digest(digests: Mapping[str, str]) -> str:
    """Identity of a set of files: sha256 over "<digest>  <name>\\n" in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{digests[name]}  {name}\n".encode())
    return whole.hexdigest()
