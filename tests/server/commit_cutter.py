"""A proxy before a PostgreSQL server that cuts one connection at the COMMIT of one transaction."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from drills.rig.postgres import ThrowawayPostgres

_SOCKET = ".s.PGSQL.5432"
_COMMIT = b"COMMIT\0"


class Moment(Enum):
    """Whether the server gets the COMMIT whose answer nobody hears."""

    BEFORE = "before the server has it"
    AFTER = "after the server has done it"


@dataclass
class _Link:
    """One client's connection and ours to the server."""

    client: socket.socket
    server: socket.socket
    marked: bool = False
    muted: bool = False

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class CommitCutter:
    """Passes everything on until it is told to cut. A context manager."""

    def __init__(self, server: ThrowawayPostgres) -> None:
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="muster-cut-"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._links: list[_Link] = []
        self._mark: bytes | None = None
        self._moment = Moment.BEFORE
        self.cuts = 0

    def url(self, database: str) -> str:
        """The address of a database behind the proxy."""
        return self._server.url(database).replace(str(self._server.folder), str(self._folder))

    def cut(self, mark: bytes, moment: Moment) -> None:
        """Cut the next transaction that carries these bytes, at its COMMIT."""
        self._moment = moment
        self._mark = mark

    def __enter__(self) -> Self:
        self._listener.bind(str(self._folder / _SOCKET))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server.folder / _SOCKET))
                link = _Link(client, server)
                self._links.append(link)
                for pass_on in (self._to_server, self._to_client):
                    threading.Thread(target=pass_on, args=(link,), daemon=True).start()

    def _to_server(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.client.recv(65536):
                link.marked |= self._mark is not None and self._mark in data
                if link.marked and _COMMIT in data:
                    self._mark = None
                    self.cuts += 1
                    if self._moment is Moment.BEFORE:
                        break
                    link.muted = True
                link.server.sendall(data)
        link.close()
        link.client.close()

    def _to_client(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.server.recv(65536):
                if link.muted:
                    if _COMMIT in data:
                        break
                    continue
                link.client.sendall(data)
        link.close()
        link.server.close()
