"""Long work that the console starts: a command of its own, whose output the page follows.

A job outlives the page that began it; the console ends it when it ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

LINES_MAX = 2_000
_LINE_BYTES_MAX = 64 * 1024
_GRACE_S = 10.0


class Busy(Exception):
    """Another job is under way; the text names it."""


@dataclass
class Job:
    """One command. lines: the newest LINES_MAX of its output; told: all that there ever were.

    exit_code: None while it runs. begun_s, ended_s: seconds since 1970.
    """

    title: str
    command: tuple[str, ...]
    begun_s: float
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_MAX))
    told: int = 0
    exit_code: int | None = None
    ended_s: float | None = None

    @property
    def runs(self) -> bool:
        """Whether it is under way."""
        return self.ended_s is None

    def since(self, seen: int) -> list[str]:
        """The lines after the first `seen`, as far as they are kept."""
        fresh = min(self.told - seen, len(self.lines))
        return list(self.lines)[len(self.lines) - fresh :] if fresh > 0 else []

    def say(self, line: str) -> None:
        """Adds a line."""
        self.lines.append(line)
        self.told += 1


class Jobs:
    """The jobs of one kind, of which one runs at a time."""

    def __init__(self) -> None:
        self.last: Job | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, title: str, command: Sequence[str]) -> Job:
        """Begins `python COMMAND...`. Raises: Busy; OSError."""
        if self.last is not None and self.last.runs:
            raise Busy(f"{self.last.title} is under way; wait for its end, or stop it")
        job = Job(title, tuple(command), time.time())
        self.last = job
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-u",
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_BYTES_MAX,
                # A group of its own: the keys pressed at the console's terminal are not for it.
                start_new_session=True,
                # A console that was started with `&` ignores Ctrl-C, which its children would inherit.
                preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
                env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"},
            )
        except OSError:
            job.ended_s = time.time()
            raise
        self._task = asyncio.create_task(self._follow(job, self._process))
        return job

    async def stop(self) -> None:
        """Asks the job to end as Ctrl-C does, so that it undoes what it did; after a while ends it."""
        process = self._process
        if process is None or process.returncode is not None or self._task is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        done, _ = await asyncio.wait([self._task], timeout=_GRACE_S)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait([self._task], timeout=_GRACE_S)

    async def _follow(self, job: Job, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:
                job.say("(a line too long to show)")
                continue
            if not raw:
                break
            job.say(raw.decode("utf-8", "replace").rstrip("\n"))
        job.exit_code = await process.wait()
        job.ended_s = time.time()
