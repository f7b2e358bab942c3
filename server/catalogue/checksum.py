"""Checksums of the store's rows: 64 bits of BLAKE2b over everything that a row says.

They find what the disk or a copy changed, not what an attacker wrote. BLAKE2b because it is in the standard
library and fast; 64 bits, so that of 10^6 damaged rows none passes by chance.
"""

from __future__ import annotations

import hashlib
import struct

CHECKSUM_BYTES = 8


def log_checksum(sequence: int, epoch: int, event_id: str, committed_unix_us: int, payload: bytes) -> bytes:
    """Checksum of a row of `log`."""
    return _checksum(b"log", (sequence, epoch, committed_unix_us), event_id, payload)


def snapshot_checksum(
    sequence: int,
    changed_sequence: int,
    epoch: int,
    product_id: str,
    committed_unix_us: int,
    payload: bytes,
) -> bytes:
    """Checksum of a row of `snapshot`."""
    return _checksum(b"snapshot", (sequence, changed_sequence, epoch, committed_unix_us), product_id, payload)


def state_checksum(sequence: int, epoch: int, products: int, rows_checksum: bytes) -> bytes:
    """Checksum of the row of `snapshot_state`."""
    return _checksum(b"state", (sequence, epoch, products), "", rows_checksum)


def combined(one: bytes, other: bytes) -> bytes:
    """Checksum of a set of rows with one more, or with one less: it does not depend on their order."""
    return bytes(left ^ right for left, right in zip(one, other, strict=True))


def _checksum(table: bytes, numbers: tuple[int, ...], text: str, payload: bytes) -> bytes:
    try:
        # "surrogatepass": the text may be damaged, and must then only not match.
        encoded = text.encode("utf-8", "surrogatepass")
        # The length keeps the end of the text from passing for the start of the payload.
        front = struct.pack(f">{len(numbers) + 1}q", *numbers, len(encoded))
        return hashlib.blake2b(front + encoded + payload, digest_size=CHECKSUM_BYTES, person=table).digest()
    except (AttributeError, TypeError, struct.error):
        return b""  # A damaged row may even hold values of another kind. This matches no checksum.
