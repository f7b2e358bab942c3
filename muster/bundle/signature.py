"""Who vouches for a bundle: an ed25519 signature over its manifest, which names every file by its checksum.

A signature lies inside `manifest.json`, so a signed bundle has the same files and the same identity as the
unsigned one. Keys are files in PEM; a public key is told by the 64 hex digits of its 32 bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from muster.bundle.errors import BundleError, BundleSignatureError
from muster.bundle.manifest import MANIFEST_FILE, Manifest, Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SigningKey:
    """A private key in memory. public_key: 64 hex digits."""

    private: Ed25519PrivateKey

    @property
    def public_key(self) -> str:
        """What those who trust the key write into their settings."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, text: str) -> Signature:
        """A signature over exactly this text; `signature_fits` checks it."""
        return Signature(self.public_key, self.private.sign(text.encode()).hex())


def is_public_key(text: str) -> bool:
    """Whether the text is a public key as settings name it."""
    return _PUBLIC_KEY.fullmatch(text) is not None


def make_key(path: str | Path) -> SigningKey:
    """Draw a key and write it to a new file that only its owner can read.

    Raises: BundleError where the file is there already or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BundleError(str(path), f"the key cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return SigningKey(key)


def read_key(path: str | Path) -> SigningKey:
    """A private key from its file. Raises: BundleError where it is not one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise BundleError(str(path), f"the key cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BundleError(str(path), "not an unencrypted private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(str(path), "not an ed25519 key; make one with `muster bundle key FILE`")
    return SigningKey(key)


def sign_bundle(folder: str | Path, key: SigningKey) -> Manifest:
    """Verify a bundle and sign it in place; a signature that it had is replaced. Raises: BundleError."""
    from muster.bundle.reader import read_bundle

    bundle = read_bundle(folder)
    bare = replace(bundle.manifest, signature=None)
    signed = replace(bare, signature=key.sign(bare.to_json()))
    path = bundle.folder / MANIFEST_FILE
    draft = path.with_name(f".{MANIFEST_FILE}-{os.getpid()}")
    try:
        draft.write_text(signed.to_json(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BundleError(MANIFEST_FILE, f"cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return signed


def check_signature(manifest: Manifest, trusted_keys: Collection[str], *, allow_unsigned: bool) -> None:
    """Whether somebody trusted vouches for the bundle.

    trusted_keys: public keys as 64 hex digits. allow_unsigned: a bundle without a signature, or with one of
    somebody else, is good as well; a signature that does not fit its manifest never is.
    Raises: BundleSignatureError.
    """
    if manifest.signature is None:
        if not allow_unsigned:
            raise BundleSignatureError(
                MANIFEST_FILE, "the bundle is not signed, and only signed ones are served"
            )
        return
    signature = manifest.signature
    if not signature_fits(signature, replace(manifest, signature=None).to_json()):
        raise BundleSignatureError(
            MANIFEST_FILE, f"the signature by {signature.public_key} does not fit the manifest"
        )
    if signature.public_key not in trusted_keys and not allow_unsigned:
        raise BundleSignatureError(
            MANIFEST_FILE, f"signed by {signature.public_key}, whose key is not among the trusted ones"
        )


def signature_fits(signature: Signature, text: str) -> bool:
    """Whether it was made with its key over exactly this text."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key)).verify(
            bytes.fromhex(signature.signature), text.encode()
        )
    except (InvalidSignature, ValueError):
        return False
    return True
