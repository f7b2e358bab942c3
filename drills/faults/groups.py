"""Control groups of the kernel: processes that get only so much memory, or so much of a core.

Both versions are spoken. Version 1 is the one that these drills were tried on; version 2 follows the kernel's
documentation (https://docs.kernel.org/admin-guide/cgroup-v2.html) and has not been tried.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

from drills.experiment import Inconclusive, Need

_NUMBERS = itertools.count(1)
_REMOVE_S = 5.0
_POLL_S = 0.02


class Group:
    """A new, empty group of one controller. `remove` it in the end.

    controller: "memory" or "cpu". Raises: Inconclusive where none can be made.
    """

    def __init__(self, controller: str) -> None:
        self.controller = controller
        root, self.version = _hierarchy(controller)
        self.path = root / f"muster-drill-{os.getpid()}-{next(_NUMBERS)}"
        self._homes: dict[int, Path] = {}
        self._root = root
        try:
            if self.version == 2:
                (root / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
            self.path.mkdir()
        except OSError as error:
            raise Inconclusive(
                f"a control group for {controller} cannot be made below {root}: {error.strerror}; run as "
                "root, in a container with --privileged"
            ) from error

    def take(self, pid: int) -> None:
        """Puts a process with all its threads into the group. Raises: Inconclusive where the kernel
        refuses."""
        home = _home(pid, self.controller, self._root, self.version)
        try:
            self._move(pid, self.path)
        except OSError as error:
            raise Inconclusive(f"process {pid} cannot be put into {self.path}: {error.strerror}") from error
        self._homes[pid] = home

    def set(self, name: str, value: str) -> None:
        """Sets one of the group's files. Raises: Inconclusive where the kernel refuses."""
        try:
            (self.path / name).write_text(value, encoding="ascii")
        except OSError as error:
            raise Inconclusive(f"{self.path / name} cannot be set to {value}: {error.strerror}") from error

    def counts(self, name: str) -> dict[str, int]:
        """One of the group's files that holds a name and a number a line."""
        try:
            lines = (self.path / name).read_text(encoding="ascii").splitlines()
        except OSError:
            return {}
        pairs = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}

    def remove(self) -> None:
        """Puts what still runs back to where it came from, and removes the group. Safe to call twice."""
        for pid, home in self._homes.items():
            with contextlib.suppress(OSError):
                self._move(pid, home)
        end_s = time.monotonic() + _REMOVE_S
        while self.path.exists() and time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                self.path.rmdir()
            time.sleep(_POLL_S)

    def _move(self, pid: int, folder: Path) -> None:
        (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")


def _hierarchy(controller: str) -> tuple[Path, int]:
    """Where groups of this controller are, and of which version they are. Raises: Inconclusive."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            return Path(point), 1
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if controller in (Path(point) / "cgroup.controllers").read_text(encoding="ascii").split():
                    return Path(point), 2
    raise Inconclusive(f"no control groups for {controller} are mounted here; run on a Linux that has them")


def _home(pid: int, controller: str, root: Path, version: int) -> Path:
    """The group that a process is in. Source: cgroups(7), /proc/PID/cgroup."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if (version == 1 and controller in controllers.split(",")) or (version == 2 and not controllers):
            home = root / path.lstrip("/")
            # In a namespace of groups the path may lie outside of what is mounted.
            return home if home.is_dir() else root
    return root


def group_need(controller: str) -> Need:
    """The right to make control groups; found out by making one."""

    def missing() -> str | None:
        try:
            Group(controller).remove()
        except Inconclusive as error:
            return str(error)
        return None

    return Need(f"control groups for {controller}", missing)
