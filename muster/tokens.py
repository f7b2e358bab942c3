"""Tokens for small shops: an ed25519 key in a file, its public half in the key set of the replicas, tokens
signed with it. Larger ones have an identity provider that does the same.

`docs/security.md` says what replicas ask of a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCOPES = ("read", "write", "feedback", "admin", "drill")
KEYS_MAX = 64
_KEY_SET_BYTES_MAX = 1 << 20
_NAME = re.compile(r"[\x21-\x7e]{1,128}")


class TokenError(Exception):
    """A key, a key set or a token that cannot be made as asked; one sentence, which never quotes a secret."""


@dataclass(frozen=True)
class Wanted:
    """What a token shall say. lifetime_s: seconds. once: good for one call to the replica that `audience`
    names (`muster/REPLICA`). certificate: PEM; the token is then good only beside this client certificate.
    """

    subject: str
    scopes: Sequence[str]
    lifetime_s: float
    audience: str = "muster"
    issuer: str = ""
    once: bool = False
    certificate: Path | None = None

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.subject) is None:
            raise TokenError("a subject has 1 to 128 printable characters of ASCII, and no spaces")
        unknown = [scope for scope in self.scopes if scope not in SCOPES]
        if unknown or not self.scopes:
            raise TokenError(f"name at least one scope of {', '.join(SCOPES)}, not {unknown or 'none'}")
        if not 1 <= self.lifetime_s <= 10 * 365 * 86_400:
            raise TokenError("a token lives from one second to ten years")
        if self.once and "/" not in self.audience:
            raise TokenError("a token for one call is for one replica: the audience is then muster/REPLICA")


def key_id(public: bytes) -> str:
    """The name of an ed25519 key: its thumbprint (RFC 7638)."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _encoded(public)}
    return _encoded(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def make_key(path: Path, key_set: Path) -> str:
    """Draw a key into a new file that its owner alone can read, and add its public half to the key set, which
    is made where it is missing. Returns: the key's name. Raises: TokenError; nothing is changed then.
    """
    from muster.bundle import BundleError
    from muster.bundle import make_key as draw

    known = read_key_set(key_set) if key_set.exists() else []
    if len(known) >= KEYS_MAX:
        raise TokenError(
            f"{key_set} holds {KEYS_MAX} keys, as many as replicas take; take old ones out first"
        )
    try:
        public = draw(path).private.public_key().public_bytes_raw()
    except BundleError as error:
        raise TokenError(str(error)) from error
    name = key_id(public)
    jwk = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": name, "x": _encoded(public)}
    _write(key_set, json.dumps({"keys": [*known, jwk]}, indent=2) + "\n")
    return name


def read_key_set(path: Path) -> list[dict[str, Any]]:
    """The keys of a set. Raises: TokenError."""
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_SET_BYTES_MAX + 1)
        if len(data) > _KEY_SET_BYTES_MAX:
            raise ValueError("too large")
        keys = json.loads(data)["keys"]
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TokenError(f"{path}: not a JSON Web Key set") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise TokenError(f"{path}: not a JSON Web Key set")
    return keys


def remove_key(path: Path, name: str) -> None:
    """Take a key out of a set; its tokens are refused from then on. Raises: TokenError."""
    keys = read_key_set(path)
    left = [key for key in keys if key.get("kid") != name]
    if len(left) == len(keys):
        raise TokenError(f"{path} holds no key {name!r}")
    if not left:
        raise TokenError(
            f"{name} is the last key of {path}; replicas refuse an empty set, so add another first"
        )
    _write(path, json.dumps({"keys": left}, indent=2) + "\n")


def issue(key_path: Path, wanted: Wanted) -> str:
    """A signed token. Raises: TokenError."""
    import jwt

    from muster.bundle import BundleError, read_key

    try:
        private = read_key(key_path).private
    except BundleError as error:
        raise TokenError(str(error)) from error
    now_s = int(time.time())
    claims: dict[str, Any] = {
        "sub": wanted.subject,
        "aud": wanted.audience,
        "iat": now_s,
        "exp": now_s + int(wanted.lifetime_s),
        "jti": uuid.uuid4().hex,
        "scope": " ".join(wanted.scopes),
    }
    if wanted.issuer:
        claims["iss"] = wanted.issuer
    if wanted.once:
        claims["once"] = True
    if wanted.certificate is not None:
        claims["cnf"] = {"x5t#S256": _encoded(_fingerprint(wanted.certificate))}
    head = {"kid": key_id(private.public_key().public_bytes_raw())}
    return jwt.encode(claims, private, algorithm="EdDSA", headers=head)


def _fingerprint(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256())
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TokenError(f"{path}: not a certificate in PEM") from error


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _write(path: Path, text: str) -> None:
    """Replicas look at the file at any time: it is never half there."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise TokenError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
