"""Writing a bundle: all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from muster.bundle.checksums import digest_file
from muster.bundle.content import (
    CROSS_TIERS,
    check_compressed,
    check_golden,
    check_lexical,
    check_plans,
    check_ranker,
    check_text,
    cross_file,
    parse_object,
)
from muster.bundle.errors import BundleContentError, BundleError
from muster.bundle.manifest import MANIFEST_FILE, FileEntry, Manifest, make_manifest
from muster.bundle.recommend import check_section

BUNDLE_BYTES_MAX = 24 << 20


def write_bundle(
    folder: str | Path,
    name: str,
    files: Mapping[str, bytes | Path],
    *,
    created_unix_s: int,
    muster_version: str,
    bytes_max: int | None = BUNDLE_BYTES_MAX,
) -> Manifest:
    """Write a bundle to a new folder, or in place of an older bundle there.

    files: relative path to content, or to a file to copy; every file of the bundle but the manifest.
    bytes_max: size of the whole folder that must not be exceeded; None: no limit.
    The files are written beside the target, synced, checked as a reader checks them, and moved into place
    last, so that no half-written bundle ever carries the name.
    Raises: BundleError naming the file; OSError. Whatever was at `folder` is then still there, unchanged.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder):
        raise BundleError(".", f"{folder} exists and is not a bundle; it is left alone")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for file, content in files.items():
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            data = content.read_bytes() if isinstance(content, Path) else content
            with target.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        entries = {file: FileEntry(*digest_file(staging / file)) for file in files}
        manifest = make_manifest(name, entries, created_unix_s=created_unix_s, muster_version=muster_version)
        text = manifest.to_json().encode()
        total = sum(entry.bytes for entry in entries.values()) + len(text)
        if bytes_max is not None and total > bytes_max:
            raise BundleContentError(".", f"the bundle has {total} bytes, more than the {bytes_max} allowed")
        check_contents(files, lambda file: (staging / file).read_bytes())
        check_section(staging, files)
        (staging / MANIFEST_FILE).write_bytes(text)
        staging.chmod(0o755)
        _swap(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def check_contents(files: Mapping[str, object], read: Callable[[str], bytes]) -> None:
    """Check every file whose meaning this package knows. Raises: BundleContentError naming the file."""
    check_text(parse_object("text.json", read("text.json")))
    check_lexical(parse_object("lexical.json", read("lexical.json")))
    check_plans(parse_object("plans.json", read("plans.json")), files)
    check_golden(parse_object("golden.json", read("golden.json")))
    for file in ("tokenizer.json", "card.json"):
        parse_object(file, read(file))
    for file in sorted(files):
        if file.startswith("ranker/"):
            check_ranker(file, read(file))
        if file.endswith(".gz"):
            check_compressed(file, read(file))
    for tier in CROSS_TIERS:
        cross_file(tier, files)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST_FILE).is_file() or not any(folder.iterdir()))


def _swap(staging: Path, folder: Path) -> None:
    # A folder cannot be renamed over one that is not empty, so the old one steps aside first and comes back
    # if the new one cannot take its place.
    if not folder.exists():
        staging.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    folder.rename(aside)
    try:
        staging.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
