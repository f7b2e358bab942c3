"""Reading a bundle: refuse whatever is not exactly what was written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.bundle.checksums import digest_file
from muster.bundle.content import parse_object
from muster.bundle.errors import BundleDamagedError
from muster.bundle.manifest import GATE_FILE, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest
from muster.bundle.recommend import check_section
from muster.bundle.writer import check_contents


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Its files were as declared when `read_bundle` returned."""

    folder: Path
    manifest: Manifest

    @property
    def bundle_id(self) -> str:
        """Identity: name and digest of the files."""
        return self.manifest.bundle_id

    @property
    def bytes(self) -> int:
        """Size of all declared files, bytes."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def json(self, file: str) -> dict[str, Any]:
        """A declared JSON file. Raises: BundleContentError; KeyError where it is not declared."""
        if file not in self.manifest.files:
            raise KeyError(file)
        return parse_object(file, (self.folder / file).read_bytes())

    def plans(self) -> list[dict[str, Any]]:
        """The plans that the planner chooses from, in the order of the file."""
        return list(self.json("plans.json")["plans"])

    def card(self) -> dict[str, Any]:
        """The model card, for machines."""
        return self.json("card.json")


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest alone; the files are not looked at.

    Raises: BundleDamagedError, BundleSchemaError.
    """
    path = Path(folder) / MANIFEST_FILE
    if not Path(folder).is_dir():
        raise BundleDamagedError(".", f"{folder} is not a folder")
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise BundleDamagedError(MANIFEST_FILE, "the file is missing; this is no bundle") from error
    except OSError as error:
        raise BundleDamagedError(MANIFEST_FILE, f"cannot be read: {error.strerror}") from error
    if len(data) > MANIFEST_BYTES_MAX:
        raise BundleDamagedError(MANIFEST_FILE, f"larger than {MANIFEST_BYTES_MAX} bytes")
    return Manifest.from_json(data)


def read_bundle(folder: str | Path) -> Bundle:
    """Verify a bundle and open it.

    Every declared file must be there as a plain file with the declared size and digest; nothing else may be
    in the folder but a verdict of drills; what the JSON files say must make sense. Reads each byte once.
    Raises: BundleError; its `file` names the offender.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for extra in sorted(_present(folder) - set(manifest.files) - {MANIFEST_FILE, GATE_FILE}):
        raise BundleDamagedError(extra, "the manifest does not declare this file")
    for name, entry in sorted(manifest.files.items()):
        path = folder / name
        # A link could point anywhere, and its target can change after the check.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BundleDamagedError(name, "not a plain file")
        try:
            digest, size = digest_file(path, bytes_max=entry.bytes)
        except FileNotFoundError as error:
            raise BundleDamagedError(name, "the file is missing") from error
        except OSError as error:
            raise BundleDamagedError(name, f"cannot be read: {error.strerror}") from error
        if size > entry.bytes:
            raise BundleDamagedError(name, f"larger than the {entry.bytes} bytes declared")
        if size < entry.bytes:
            raise BundleDamagedError(name, f"truncated: {size} of the {entry.bytes} bytes declared")
        if digest != entry.sha256:
            raise BundleDamagedError(
                name, "its content was changed: the sha256 differs from the one declared"
            )
    check_contents(manifest.files, lambda file: (folder / file).read_bytes())
    check_section(folder, manifest.files)
    return Bundle(folder, manifest)


def _present(folder: Path) -> set[str]:
    found: set[str] = set()
    for parent, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(parent) / name).is_symlink())):
            found.add((Path(parent) / name).relative_to(folder).as_posix())
    return found
