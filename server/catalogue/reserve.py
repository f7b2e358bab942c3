"""Room on the disk that is kept for the lease.

On a full disk a primary that cannot renew its lease would have to step down, and nobody could take over:
callers would find no primary, rather than one that tells them why their writes are refused. So the replicas
keep a file of a few megabytes that holds nothing. When a write of the lease finds no room it gives that file
up and is tried again; appends are refused, without being tried, until the file can be made again: then there
is room for them too.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from server.catalogue.errors import DiskFull

logger = logging.getLogger(__name__)

# The write-ahead log is cut at about 4 MiB: with so much it gets there, and is used from its start again.
RESERVE_BYTES = 4 * 2**20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The file; all replicas of a catalogue share it. Safe for several threads and processes."""

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._bytes = size_bytes

    def keep(self) -> None:
        """See to it that the room is kept. Raises: DiskFull where there is not so much."""
        try:
            if self._path.stat().st_size >= self._bytes:
                return
        except OSError:
            pass
        try:
            self._make()
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise DiskFull("the disk is full but for the lease's reserve; nothing was written") from error
            # Whatever else is wrong with the disk, the write itself finds out and says.
            logger.warning("no room can be kept for the lease: %s", error)

    def _make(self) -> None:
        # Asked first: even the attempt would take, for a moment, the room that the lease needs.
        room = os.statvfs(self._path.parent)
        if room.f_bavail * room.f_frsize < self._bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        draft = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, self._bytes)
            finally:
                os.close(descriptor)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def give(self) -> bool:
        """Give the room up for a write of the lease. False: it was not there."""
        try:
            self._path.unlink()
        except OSError:
            return False
        logger.warning("the disk is full: the lease lives on what was kept for it, appends are refused")
        return True
