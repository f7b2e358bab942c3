"""Pseudonyms: the same shopper has the same one for a period, and nobody without the secret can tell whose
it is.

A pseudonym is `SECRET-DAYS-PERIOD-` and 32 hex digits: the first sixteen bytes of HMAC-SHA-256 (RFC 2104,
FIPS 180-4) over the kind of name, the period and the name, under a key that is drawn from the secret. What
stands before the digits says which secret and which period it is of, so that whoever has the secrets can
check a shopper's name against it, years later.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHOPPER = "shopper"
SESSION = "session"

_DAY_S = 86_400
_DIGEST_BYTES = 16
_PSEUDONYM = re.compile(r"([0-9a-f]{8})-([0-9]{1,4})-([0-9]{1,6})-([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, repr=False)
class Secret:
    """32 random bytes, and their name: 8 hex digits. Never shown."""

    name: str
    value: bytes

    def key(self, purpose: str) -> bytes:
        """A key for one purpose, 32 bytes; keys of different purposes say nothing of each other."""
        return hmac.digest(self.value, b"muster/" + purpose.encode(), hashlib.sha256)

    @property
    def pseudonym_key(self) -> bytes:
        """The key that makes pseudonyms, 32 bytes."""
        return self.key("pseudonym")


class Pseudonyms:
    """Makes pseudonyms with the newest secret; recognises those of all.

    secrets: the newest first, at least one. period_days: for how long a shopper keeps one.
    """

    def __init__(self, secrets: Sequence[Secret], period_days: int) -> None:
        if not secrets:
            raise ValueError("pseudonyms need a secret")
        self._secrets = {secret.name: secret for secret in secrets}
        self._newest = secrets[0]
        self._period_days = period_days
        self._keys = {secret.name: secret.pseudonym_key for secret in secrets}

    def of(self, kind: str, name: str, at_s: float) -> str:
        """The pseudonym of a name. kind: SHOPPER or SESSION. at_s: seconds since the Unix epoch."""
        period = int(at_s // (self._period_days * _DAY_S))
        return self._pseudonym(self._newest.name, kind, name, self._period_days, period)

    def all_of(self, kind: str, name: str, from_s: float, to_s: float) -> Iterator[str]:
        """Every pseudonym that the name may have had from one time to another, under any secret."""
        length_s = self._period_days * _DAY_S
        for secret in self._secrets:
            for period in range(int(from_s // length_s), int(to_s // length_s) + 1):
                yield self._pseudonym(secret, kind, name, self._period_days, period)

    def belongs(self, pseudonym: str, kind: str, name: str) -> bool:
        """Whether the pseudonym is the name's, whenever it was made. False for one of a secret that is
        gone.
        """
        parts = _PSEUDONYM.fullmatch(pseudonym)
        if parts is None or parts[1] not in self._secrets:
            return False
        made = self._pseudonym(parts[1], kind, name, int(parts[2]), int(parts[3]))
        return hmac.compare_digest(made, pseudonym)

    def _pseudonym(self, secret: str, kind: str, name: str, days: int, period: int) -> str:
        message = b"\0".join(
            (kind.encode(), f"{days}/{period}".encode(), name.encode("utf-8", "surrogatepass"))
        )
        digest = hmac.digest(self._keys[secret], message, hashlib.sha256)[:_DIGEST_BYTES]
        return f"{secret}-{days}-{period}-{digest.hex()}"
