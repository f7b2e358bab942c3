"""Caches that are empty: a replica that comes back has to read everything again."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.faults.process import Clustered, bring_back, one_standby
from drills.rig.cluster import ROOT

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ColdStart:
    """A standby is killed, what the system keeps of its files is dropped, and it is started again.

    Pages that another replica maps stay: the kernel drops only what nobody uses.
    """

    name: str = "cold_start"

    def inject(self, subject: Clustered) -> dict[str, Any]:
        """Returns once the replica says of itself that it serves. "serving_after_s": how long that took."""
        cluster = subject.cluster
        standby = one_standby(cluster)
        instant_s = time.monotonic()
        cluster.kill(standby)
        files = list(_files(cluster.plan.bundle, cluster.data_dir / "generations", ROOT / "rankcore"))
        before = sum(resident_bytes(path) for path in files)
        for path in files:
            drop(path)
        after = sum(resident_bytes(path) for path in files)
        cluster.restart(standby)
        return {
            "replica": standby.name,
            "serving_after_s": round(time.monotonic() - instant_s, 3),
            "cached_mib_before": round(before / 2**20, 2),
            "cached_mib_after": round(after / 2**20, 2),
            "instant_s": instant_s,
        }

    def rollback(self, subject: Clustered) -> None:
        """Starts every replica that is not running."""
        bring_back(subject.cluster)


def _files(*folders: Path) -> Iterable[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def drop(path: Path) -> None:
    """Asks the kernel to forget what it keeps of a file. Source: posix_fadvise(2)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_bytes(path: Path) -> int:
    """How much of a file the kernel keeps in memory. Source: mincore(2)."""
    size = path.stat().st_size
    if not size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        resident = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(mapped)
        try:
            failed = _LIBC.mincore(ctypes.byref(start), ctypes.c_size_t(size), resident)
        finally:
            del start
    return 0 if failed else sum(page & 1 for page in resident) * mmap.PAGESIZE
