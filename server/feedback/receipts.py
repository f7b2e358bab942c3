"""Recognises the ids of answers, which the front makes (`rankcore/front/src/receipts.rs`).

An id proves by itself that a replica with the same secret gave an answer at that time: nobody keeps a list
of answers, so there is nothing that could grow, get lost in a takeover or be filled up by strangers. It
does not say what was in the answer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from muster.v1 import feedback_pb2 as pb

_ID = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SIGNED_BYTES = 12
_TAG_BYTES = 8


@dataclass(frozen=True, repr=False)
class Receipts:
    """key: 32 bytes. age_max_s: feedback on an answer older than that is marked as expired."""

    key: bytes
    age_max_s: float

    def state(self, receipt_id: str, now_s: float) -> pb.ReceiptState.ValueType:
        """What is known of the answer. now_s: seconds since the Unix epoch."""
        if not receipt_id:
            return pb.RECEIPT_STATE_UNSPECIFIED
        given_s = self.given_s(receipt_id)
        if given_s is None:
            return pb.RECEIPT_STATE_UNKNOWN
        return pb.RECEIPT_STATE_EXPIRED if now_s - given_s > self.age_max_s else pb.RECEIPT_STATE_KNOWN

    def _tag(self, signed: bytes) -> bytes:
        return hashlib.blake2s(signed, digest_size=_TAG_BYTES, key=self.key).digest()

    def given_s(self, receipt_id: str) -> int | None:
        """When the answer was given, by the clock of its replica; None: no answer has this id."""
        if not _ID.fullmatch(receipt_id):
            return None
        data = bytes.fromhex(receipt_id)
        signed, tag = data[:_SIGNED_BYTES], data[_SIGNED_BYTES:]
        return int.from_bytes(signed[:4], "big") if hmac.compare_digest(tag, self._tag(signed)) else None


def issued_s(receipt_id: str) -> int | None:
    """The time that a recognised id carries, for those who have no key."""
    return int(receipt_id[:8], 16) if _ID.fullmatch(receipt_id) else None
