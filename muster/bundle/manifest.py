"""The manifest: what a bundle consists of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.bundle.checksums import bundle_digest
from muster.bundle.errors import BundleContentError, BundleDamagedError, BundleSchemaError

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
GATE_FILE = "gate.json"
"""The verdict of drills, which is about a bundle and not of it."""
MANIFEST_BYTES_MAX = 1 << 20

# Without these no tier can run, or nobody can tell what the bundle is.
REQUIRED_FILES = (
    "tokenizer.json",
    "text.json",
    "encoder/model.onnx",
    "lexical.json",
    "plans.json",
    "golden.json",
    "card.json",
    "card.md",
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class FileEntry:
    """One file: sha256 as lower-case hex, and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Signature:
    """An ed25519 signature over the manifest without it, and the key it was made with, as lower-case hex."""

    public_key: str
    signature: str

    def plain(self) -> dict[str, str]:
        """As it stands in the JSON that it signs."""
        return {"public_key": self.public_key, "ed25519": self.signature}


@dataclass(frozen=True)
class Manifest:
    """All that a manifest says.

    bundle_id: "<name>-<first 12 hex digits of the digest over all files>".
    created_unix_s: seconds since the Unix epoch.
    muster_version: version of the software that wrote the bundle.
    files: relative path with "/" to its entry; every file of the folder but the manifest itself.
    signature: None where nobody has signed.
    """

    bundle_id: str
    created_unix_s: int
    muster_version: str
    files: Mapping[str, FileEntry]
    signature: Signature | None = None

    def to_json(self) -> str:
        """The manifest as written to disk: stable order, two spaces, one newline at the end."""
        value: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "bundle_id": self.bundle_id,
            "created_unix_s": self.created_unix_s,
            "muster_version": self.muster_version,
            "files": {
                name: {"sha256": entry.sha256, "bytes": entry.bytes}
                for name, entry in sorted(self.files.items())
            },
        }
        if self.signature is not None:
            value["signature"] = self.signature.plain()
        return json.dumps(value, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check a manifest; nothing on disk is looked at.

        Raises: BundleDamagedError where it is not a manifest or contradicts itself; BundleSchemaError where
        its schema is newer (or older) than this version reads.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleDamagedError(
                MANIFEST_FILE, "not complete JSON; it looks truncated or damaged"
            ) from error
        if not isinstance(value, dict):
            raise BundleDamagedError(MANIFEST_FILE, "not a JSON object")
        # The schema comes first: a newer manifest may differ in everything else.
        schema = value.get("schema_version")
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise BundleDamagedError(MANIFEST_FILE, "schema_version is missing or not a whole number")
        if schema != SCHEMA_VERSION:
            age = "newer" if schema > SCHEMA_VERSION else "older"
            raise BundleSchemaError(
                MANIFEST_FILE,
                f"schema version {schema} is {age} than the version {SCHEMA_VERSION} this software reads",
            )
        bundle_id = read_field(value, "bundle_id", str, MANIFEST_FILE)
        created = read_field(value, "created_unix_s", int, MANIFEST_FILE)
        version = read_field(value, "muster_version", str, MANIFEST_FILE)
        files: dict[str, FileEntry] = {}
        for name, entry in read_field(value, "files", dict, MANIFEST_FILE).items():
            if not _PATH.fullmatch(name) or name in (MANIFEST_FILE, GATE_FILE):
                raise BundleDamagedError(MANIFEST_FILE, f"{name!r} is not a file path inside a bundle")
            digest = entry.get("sha256") if isinstance(entry, dict) else None
            size = entry.get("bytes") if isinstance(entry, dict) else None
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise BundleDamagedError(
                    MANIFEST_FILE, f"the entry of {name} has no sha256 in lower-case hex"
                )
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise BundleDamagedError(MANIFEST_FILE, f"the entry of {name} has no size in bytes")
            files[name] = FileEntry(digest, size)
        for name in REQUIRED_FILES:
            if name not in files:
                raise BundleDamagedError(
                    MANIFEST_FILE, f"{name} is not declared, and no bundle is without it"
                )
        manifest = cls(bundle_id, created, version, files, read_signature(value, MANIFEST_FILE))
        name, _, suffix = bundle_id.rpartition("-")
        if not _NAME.fullmatch(name) or suffix != _short_digest(files):
            raise BundleDamagedError(
                MANIFEST_FILE, f"bundle_id {bundle_id!r} does not belong to the declared files"
            )
        return manifest


def make_manifest(
    name: str, files: Mapping[str, FileEntry], *, created_unix_s: int, muster_version: str
) -> Manifest:
    """Name a set of files.

    name: lower-case letters, digits, ".", "_" and "-".
    Raises: BundleContentError where the name is not one, or a file that every bundle needs is missing.
    """
    if not _NAME.fullmatch(name):
        raise BundleContentError(MANIFEST_FILE, f"{name!r} is not a bundle name (a-z, 0-9, '.', '_', '-')")
    for required in REQUIRED_FILES:
        if required not in files:
            raise BundleContentError(required, "the file is missing, and no bundle is without it")
    return Manifest(f"{name}-{_short_digest(files)}", created_unix_s, muster_version, dict(files))


def _short_digest(files: Mapping[str, FileEntry]) -> str:
    return bundle_digest({name: entry.sha256 for name, entry in files.items()})[:12]


def read_signature(value: Mapping[str, Any], file: str) -> Signature | None:
    """The signature in a signed JSON object, not verified; None: there is none. file: named in the error.

    Raises: BundleDamagedError.
    """
    parts = value.get("signature")
    if parts is None:
        return None
    if not isinstance(parts, dict):
        raise BundleDamagedError(file, "signature is of the wrong kind")
    public_key, signature = parts.get("public_key"), parts.get("ed25519")
    if not isinstance(public_key, str) or not _DIGEST.fullmatch(public_key):
        raise BundleDamagedError(file, "signature.public_key is not 64 digits of lower-case hex")
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        raise BundleDamagedError(file, "signature.ed25519 is not 128 digits of lower-case hex")
    return Signature(public_key, signature)


def read_field(value: Mapping[str, Any], key: str, kind: type, file: str) -> Any:
    """A field of a JSON object, of its kind. file: named in the error. Raises: BundleDamagedError."""
    found = value.get(key)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise BundleDamagedError(file, f"{key} is missing or of the wrong kind")
    return found
