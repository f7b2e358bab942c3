"""Where a machine keeps the bundles that were deployed: ``<data_dir>/bundles/<bundle_id>``.

One copy for all of its replicas, so that one that starts later finds what the log names.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from muster.bundle import MANIFEST_FILE, BundleError, read_bundle, read_manifest

logger = logging.getLogger(__name__)

_LOCK = ".shelving"


class Shelf:
    """The copies of one machine. Safe for several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, bundle_id: str) -> Path | None:
        """The copy of a bundle, not verified; None: there is none."""
        copy = self._folder / bundle_id
        # Names come from the log; none may lead out of the folder, or to the folder itself.
        plain = bundle_id == copy.name and bundle_id not in ("", ".", "..")
        return copy if plain and (copy / MANIFEST_FILE).is_file() else None

    def put(self, source: Path, bundle_id: str) -> Path:
        """Copy the bundle at ``source``, verified on both sides; one that is here already stays.

        Raises: BundleError where it is damaged, or another bundle than the one expected; OSError.
        """
        found = read_manifest(source).bundle_id
        if found != bundle_id:
            raise BundleError(".", f"{source} holds bundle {found}, not {bundle_id}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("a") as lock:
            # Replicas of one machine are told to load at the same time; the first copies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            copy = self._folder / bundle_id
            if copy.exists():
                try:
                    read_bundle(copy)
                    return copy
                except BundleError as error:
                    logger.warning("the copy of bundle %s is damaged (%s) and is made anew", bundle_id, error)
                    shutil.rmtree(copy)
            read_bundle(source)
            draft = self._folder / f".{bundle_id}-{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            try:
                shutil.copytree(source, draft, symlinks=True)
                read_bundle(draft)
                draft.rename(copy)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return copy

    def clear(self, keep: Collection[str], *, spare: int) -> None:
        """Remove the copies of all bundles but these and the ``spare`` newest others."""
        others = [
            copy
            for copy in self._folder.glob("*")
            if copy.name not in keep and (copy / MANIFEST_FILE).is_file()
        ]
        others.sort(key=lambda copy: copy.stat().st_mtime_ns, reverse=True)
        for copy in others[spare:]:
            shutil.rmtree(copy, ignore_errors=True)
