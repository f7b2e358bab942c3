"""Model bundles: one folder, immutable once written, refused when anything in it is not as declared."""

from __future__ import annotations

from muster.bundle.errors import BundleContentError, BundleDamagedError, BundleError, BundleSchemaError
from muster.bundle.manifest import MANIFEST_FILE, SCHEMA_VERSION, FileEntry, Manifest
from muster.bundle.reader import Bundle, read_bundle, read_manifest
from muster.bundle.writer import BUNDLE_BYTES_MAX, write_bundle

__all__ = [
    "BUNDLE_BYTES_MAX",
    "MANIFEST_FILE",
    "SCHEMA_VERSION",
    "Bundle",
    "BundleContentError",
    "BundleDamagedError",
    "BundleError",
    "BundleSchemaError",
    "FileEntry",
    "Manifest",
    "read_bundle",
    "read_manifest",
    "write_bundle",
]
