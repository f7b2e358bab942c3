"""Model bundles: one folder, immutable once written, refused when anything in it is not as declared."""

from __future__ import annotations

from muster.bundle.errors import (
    BundleContentError,
    BundleDamagedError,
    BundleError,
    BundleGateError,
    BundleSchemaError,
    BundleSignatureError,
)
from muster.bundle.gate import Gate, Rehearsed, check_gate, read_gate, write_gate
from muster.bundle.manifest import GATE_FILE, MANIFEST_FILE, SCHEMA_VERSION, FileEntry, Manifest, Signature
from muster.bundle.reader import Bundle, read_bundle, read_manifest
from muster.bundle.signature import (
    SigningKey,
    check_signature,
    is_public_key,
    make_key,
    read_key,
    sign_bundle,
)
from muster.bundle.writer import BUNDLE_BYTES_MAX, write_bundle

__all__ = [
    "BUNDLE_BYTES_MAX",
    "GATE_FILE",
    "MANIFEST_FILE",
    "SCHEMA_VERSION",
    "Bundle",
    "BundleContentError",
    "BundleDamagedError",
    "BundleError",
    "BundleGateError",
    "BundleSchemaError",
    "BundleSignatureError",
    "FileEntry",
    "Gate",
    "Manifest",
    "Rehearsed",
    "Signature",
    "SigningKey",
    "check_gate",
    "check_signature",
    "is_public_key",
    "make_key",
    "read_bundle",
    "read_gate",
    "read_key",
    "read_manifest",
    "sign_bundle",
    "write_bundle",
    "write_gate",
]
