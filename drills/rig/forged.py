"""Tokens that must open nothing, as attackers have them: guessed, forged, overheard, out of time, revoked.

Each kind says what replicas must count it as, where they get as far as looking at it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

from drills.rig.hostile import APPLY, SEARCH
from drills.rig.issuer import KEY_ID, Issuer, encoded
from muster.v1 import admin_pb2, catalogue_pb2, drill_pb2, ranking_pb2

TRANSFER = "/muster.v1.AdminService/TransferLease"
ABORT = "/muster.v1.AdminService/AbortDrill"
STOLEN = "stolen"
UNAUTHENTICATED, FORBIDDEN, LIMITED = "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"

BODIES = {
    SEARCH: ranking_pb2.SearchRequest(query="shoe").SerializeToString(),
    APPLY: catalogue_pb2.ApplyRequest(
        events=[
            catalogue_pb2.Event(
                event_id="attack", upsert=catalogue_pb2.Product(product_id="attack", title="attack")
            )
        ]
    ).SerializeToString(),
    TRANSFER: admin_pb2.TransferLeaseRequest().SerializeToString(),
    ABORT: drill_pb2.AbortDrillRequest().SerializeToString(),
}
"""A request that would be done, by its method."""

OPERATORS = frozenset({TRANSFER, ABORT})
"""The methods whose refusals stand in the audit."""

_FAR_S = 3600
_SECRETS = ("secret", "muster", "changeme", "password", "0" * 32)


@dataclass(frozen=True)
class Forged:
    """One kind. token: makes the one of a number; None: the call brings none. reason: what the metrics count
    it as where its address is not refused unseen. status: what the caller is told then.
    """

    name: str
    method: str
    reason: str
    token: Callable[[int], str] | None
    status: str = UNAUTHENTICATED


def kinds(issuer: Issuer, *, stolen: str, reader: str, overheard: str) -> Sequence[Forged]:
    """All of them. stolen: a token of `STOLEN`, revoked since. reader: one that may read. overheard: one that
    was good for a single call, which was made."""
    thief = ed25519.Ed25519PrivateKey.generate()

    def wrong(**claims: object) -> Callable[[int], str]:
        return lambda number: issuer.token(f"eve-{number}", "read", "write", "admin", **claims)

    def guessed(number: int) -> str:
        return hmac_token(issuer, f"{_SECRETS[number % len(_SECRETS)]}{number}".encode())

    def by_thief(key_id: str) -> Callable[[int], str]:
        return lambda number: jwt.encode(
            issuer.claims(f"eve-{number}", ["admin"]), thief, algorithm="EdDSA", headers={"kid": key_id}
        )

    now_s = int(time.time())
    return (
        # First those whose signature is good: an address shows them before it is refused unseen.
        Forged("a stolen token, revoked", SEARCH, "revoked", lambda _: stolen),
        Forged("a reader's token for a write", APPLY, "scope", lambda _: reader, FORBIDDEN),
        Forged("a reader's token for the lease", TRANSFER, "scope", lambda _: reader, FORBIDDEN),
        # At the replica that it was for it was used; to the others it is somebody else's.
        Forged("an overheard token", ABORT, "replayed", lambda _: overheard),
        Forged("a guessed signature", TRANSFER, "signature", by_thief(KEY_ID)),
        Forged("a key that is not known", SEARCH, "unknown_key", by_thief("thief")),
        Forged("a guessed secret", SEARCH, "algorithm", guessed),
        Forged("the public key as a secret", APPLY, "algorithm", lambda _: hmac_token(issuer, issuer.public)),
        Forged("no algorithm", TRANSFER, "algorithm", lambda _: unsigned(issuer)),
        Forged("changed claims", APPLY, "signature", lambda number: promoted(issuer, number)),
        Forged("an expired token", SEARCH, "expired", wrong(iat=now_s - 2 * _FAR_S, exp=now_s - _FAR_S)),
        Forged("a token not yet valid", SEARCH, "not_yet", wrong(nbf=now_s + _FAR_S)),
        Forged("another service's token", APPLY, "audience", wrong(aud="payments")),
        Forged("another issuer's token", SEARCH, "issuer", wrong(iss="elsewhere")),
        Forged("a token that never ends", SEARCH, "lifetime", wrong(exp=now_s + 20 * 365 * 86_400)),
        Forged("nobody's token", SEARCH, "claims", wrong(sub="")),
        Forged("noise", SEARCH, "malformed", lambda number: f"{number}.not.a-token"),
        Forged("no token", ABORT, "absent", None),
    )


def _signed_part(issuer: Issuer, algorithm: str) -> str:
    head = {"alg": algorithm, "typ": "JWT", "kid": KEY_ID}
    claims = issuer.claims("root", ["admin"])
    return ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))


def hmac_token(issuer: Issuer, secret: bytes) -> str:
    """HS256 under the id of an ed25519 key: whoever takes the algorithm from the token checks it with what is
    public."""
    signed = _signed_part(issuer, "HS256")
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def unsigned(issuer: Issuer) -> str:
    """`alg: none`, and no signature."""
    return f"{_signed_part(issuer, 'none')}."


def promoted(issuer: Issuer, number: int) -> str:
    """A reader's token with the claims of an operator under the reader's signature."""
    head, _, made = issuer.token(f"eve-{number}", "read").split(".")
    claims = issuer.claims(f"eve-{number}", ["admin"])
    return f"{head}.{encoded(json.dumps(claims).encode())}.{made}"
