"""An identity provider of a drill's own: one ed25519 key, the key set that replicas read, tokens of any kind.

Tokens are made here by hand, not by `muster token`, since most of them are to be wrong.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

AUDIENCE = "muster"
ISSUER = "drill"
KEY_ID = "drill-key"
_LIFETIME_S = 3600


def encoded(data: bytes) -> str:
    """base64url without padding, as JSON Web Tokens have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Issuer:
    """Issues tokens and says which are revoked. folder: where the replicas' files are; must exist."""

    folder: Path
    key: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate, repr=False)

    @property
    def keys(self) -> Path:
        """The key set, for `auth.keys`."""
        return self.folder / "keys.json"

    @property
    def revoked(self) -> Path:
        """The list for `auth.revoked`."""
        return self.folder / "revoked"

    @property
    def public(self) -> bytes:
        """The public half of the key, 32 bytes."""
        return self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def publish(self) -> None:
        """Writes both files; nothing is revoked yet."""
        known = {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": KEY_ID,
            "x": encoded(self.public),
        }
        replace_file(self.keys, json.dumps({"keys": [known]}).encode())
        replace_file(self.revoked, b"# nothing yet\n")

    def revoke(self, subject: str) -> None:
        """From the replicas' next look on no token of this subject is good."""
        replace_file(self.revoked, f"subject {subject}\n".encode())

    def claims(self, subject: str, scopes: Sequence[str], **more: Any) -> dict[str, Any]:
        """Those of a good token, with others in their place; what is None is left out."""
        now_s = int(time.time())
        told = {
            "iss": ISSUER,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": now_s,
            "exp": now_s + _LIFETIME_S,
            "jti": uuid.uuid4().hex,
            "scope": " ".join(scopes),
            **more,
        }
        return {name: value for name, value in told.items() if value is not None}

    def token(self, subject: str, *scopes: str, **more: Any) -> str:
        """Signed with the key that replicas know. more: claims, as `claims` takes them."""
        return self.sign(self.claims(subject, scopes, **more))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """These claims, signed with the key that replicas know."""
        return jwt.encode(dict(claims), self.key, algorithm="EdDSA", headers={"kid": KEY_ID})


def replace_file(path: Path, data: bytes) -> None:
    """Replicas look at any time, so a file is never half there."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)
