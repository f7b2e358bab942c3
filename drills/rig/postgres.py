"""A PostgreSQL server of one's own for a while: made in a temporary folder, thrown away at the end.

It listens on a Unix socket in that folder alone, flushes to the disk as a real one does, and refuses to run
as root, so that a caller who is root has it run as another user. Debian's packages bring what it needs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from drills.experiment import Inconclusive, Need

INSTALL = "apt-get install postgresql"
_PACKAGED = Path("/usr/lib/postgresql")
_USERS = ("postgres", "nobody")
_POLL_S = 0.05
_START_S = 60.0


def find_binaries() -> Path | None:
    """The folder of `postgres` and `initdb`, the newest that is installed; None where there is none."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    packaged = [path for path in _PACKAGED.glob("*/bin") if path.parent.name.isdigit()]
    candidates += sorted(packaged, key=lambda path: int(path.parent.name), reverse=True)
    complete = (path for path in candidates if all((path / name).exists() for name in ("postgres", "initdb")))
    return next(complete, None)


def missing() -> str | None:
    """Why no server can be started here and what to do, or None."""
    if find_binaries() is None:
        return f"PostgreSQL is not installed; {INSTALL}"
    if os.geteuid() == 0 and _user() is None:
        return f"PostgreSQL does not run as root, and none of the users {', '.join(_USERS)} exists"
    return None


def postgres_need() -> Need:
    """The need for the binaries as an experiment states it."""
    return Need("PostgreSQL", missing)


def _user() -> pwd.struct_passwd | None:
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class ThrowawayPostgres:
    """The server. A context manager: started on the way in, ended and removed on the way out.

    settings: `name=value` of postgresql.conf beside the server's defaults. standby_of: a running server whose
    copy this one is and follows, by the name `standby`. Raises: Inconclusive where it cannot be started, with
    the end of its log.
    """

    def __init__(self, settings: Sequence[str] = (), *, standby_of: ThrowawayPostgres | None = None) -> None:
        self._settings = tuple(settings)
        self._standby_of = standby_of
        self._owner = _user() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path()

    def __enter__(self) -> Self:
        if (reason := missing()) is not None:
            raise Inconclusive(reason)
        self.folder = Path(tempfile.mkdtemp(prefix="muster-postgres-"))
        try:
            if self._owner is not None:
                os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
            self._initialise()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._remove()

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- where it is -------------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """Its superuser."""
        return self._owner.pw_name if self._owner is not None else pwd.getpwuid(os.geteuid()).pw_name

    def url(self, database: str = "postgres") -> str:
        """What `catalogue.store` takes."""
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.folder}"

    @property
    def socket_path(self) -> str:
        """The socket that it listens on."""
        return str(self.folder / ".s.PGSQL.5432")

    def url_by(self, address: str, database: str) -> str:
        """The same through host:port of a proxy that leads to its socket."""
        return f"postgresql+psycopg://{self.user}@{address}/{database}?sslmode=disable"

    def url_with(self, other: ThrowawayPostgres, database: str) -> str:
        """The same for two servers of which one takes writes."""
        return f"{self.url(database)}&host={other.folder}&target_session_attrs=read-write"

    def create_database(self, name: str) -> str:
        """Makes an empty database; returns what `catalogue.store` takes. Raises: Inconclusive."""
        self._run(f"gets no database {name}", "createdb", "-h", str(self.folder), name)
        return self.url(name)

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its first process exists and has not ended."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            text = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return "(no log)"

    # --- start and end -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts it on the data it has, and waits until it takes connections."""
        arguments = [f"unix_socket_directories={self.folder}", "listen_addresses=", "fsync=on"]
        flags = [part for setting in (*arguments, *self._settings) for part in ("-c", setting)]
        self._process = self._spawn("postgres", "-D", str(self.folder / "data"), *flags)
        end_s = time.monotonic() + _START_S
        while "ready" not in self._state():
            if self._process.poll() is not None or time.monotonic() >= end_s:
                raise Inconclusive(f"PostgreSQL did not start:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """kill -9 of the whole server; what was committed is on the disk. Safe to call twice."""
        if self._process is None or self._process.poll() is not None:
            return
        # Pinned, so that no later process of the same number is meant.
        children = []
        for pid in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                children.append(os.pidfd_open(pid))
        self._process.kill()
        self._process.wait()
        # The others see it and end by themselves; a stopped one would not, and would keep the data busy.
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
        for child in children:
            select.select([child], [], [], _START_S)
            os.close(child)

    def stop(self) -> None:
        """Ends it in order: sessions are cut off, data is flushed."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=_START_S)

    def promote(self) -> None:
        """Makes a standby a server of its own, which takes writes."""
        self._run("cannot be promoted", "pg_ctl", "promote", "-w", "-D", str(self.folder / "data"))

    def freeze(self) -> None:
        """SIGSTOP of every process of the server: connections stay open, nothing answers."""
        # The first one first, so that it starts no more.
        os.kill(self.pid, signal.SIGSTOP)
        # A child may end by itself at any moment.
        for pid in _children(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undoes `freeze`."""
        for pid in (*_children(self.pid), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _initialise(self) -> None:
        data = str(self.folder / "data")
        # What is flushed here would be thrown away; the server itself flushes.
        if self._standby_of is None:
            encoding = ("--auth=trust", "--encoding=UTF8", "--locale=C")
            self._run("cannot be made", "initdb", "-D", data, *encoding, "--no-sync")
            return
        source = f"host={self._standby_of.folder} user={self.user} application_name=standby"
        copying = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self._run("cannot be copied", "pg_basebackup", "-D", data, "-d", source, *copying)

    def _run(self, problem: str, program: str, *arguments: str) -> None:
        if self._spawn(program, *arguments).wait(timeout=_START_S) != 0:
            raise Inconclusive(f"PostgreSQL's data folder {problem}:\n{self.log_tail()}")

    def _state(self) -> str:
        """The line of postmaster.pid that says how far it is."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            if lines and lines[0] == str(self.pid) and len(lines) >= 8:
                return lines[7]
        return ""

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        binaries = find_binaries()
        assert binaries is not None
        command = [str(binaries / program), *arguments]
        if self._owner is not None:
            # Ends with this process too, however that ends.
            who = [f"--reuid={self._owner.pw_uid}", f"--regid={self._owner.pw_gid}", "--clear-groups"]
            command = ["setpriv", *who, "--pdeathsig=KILL", "--", *command]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                start_new_session=True,
            )


def _children(pid: int) -> list[int]:
    listed: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            listed += [int(child) for child in path.read_text().split()]
    return listed
