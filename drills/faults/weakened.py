"""A replica, or a deployer, without one of its protections, to see that the drill which relies on it notices.

    python -m drills.faults.weakened PROTECTION --config FILE ...

becomes `python -m server --config FILE ...` with one decision of the server replaced, and

    python -m drills.faults.weakened judge deploy BUNDLE ...

becomes `muster deploy BUNDLE ...` without a judge. Replicas and deployers are the only processes that run
this; the drill itself never loads the server.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def _shedding() -> None:
    """Appends are queued however late they would be."""
    appending = _module("server.catalogue.appending")
    _replace(appending.Appending, "_shed_if_late", lambda *_: None)


def _exit() -> None:
    """A sync that failed is an append that failed, and the process goes on."""
    errors = _module("server.catalogue.errors")
    sqlite = _module("server.catalogue.sqlite")
    before = sqlite._store_error

    def unavailable(error: Any) -> Any:
        after = before(error)
        failed = isinstance(after, errors.StoreIOFailed)
        return errors.StoreUnavailable(f"{after}; nothing was written") if failed else after

    _replace(sqlite, "_store_error", unavailable)


def _room() -> None:
    """A full disk counts as one that fails."""
    errors = _module("server.catalogue.errors")
    sqlite = _module("server.catalogue.sqlite")
    before = sqlite._store_error

    def failing(error: Any) -> Any:
        after = before(error)
        return errors.StoreIOFailed(str(after)) if isinstance(after, errors.DiskFull) else after

    _replace(sqlite, "_store_error", failing)


def _checksums() -> None:
    """Bundles and generations are taken as they are."""
    reader, generations = _module("muster.bundle.reader"), _module("server.generation.open")
    held, shelf = _module("server.release.held"), _module("server.release.shelf")

    def taken(folder: Any) -> Any:
        return reader.Bundle(Path(folder), reader.read_manifest(folder))

    for user in (held, shelf):
        _replace(user, "read_bundle", taken)
    _replace(generations, "verify", generations.read_manifest)


def _warming() -> None:
    """Health says SERVING from the first moment."""
    health = _module("server.health").Health
    before = health.__init__

    def announced(told: Any) -> None:
        before(told)
        told.readable(True)

    _replace(health, "__init__", announced)


def _scrub() -> None:
    """Feedback is kept as it came: names of shoppers, and what they wrote."""
    recorder = _module("server.feedback.recording").Recorder
    _replace(recorder, "_pseudonym", lambda recorder, kind, name, now_s: name)
    _replace(recorder, "_scrubbed", lambda recorder, text, names, counts: text)


PROTECTIONS: dict[str, Callable[[], None]] = {
    "shedding": _shedding,
    "exit": _exit,
    "room": _room,
    "checksums": _checksums,
    "warming": _warming,
    "scrub": _scrub,
}
"""By name: takes the protection out of the server of this process."""


JUDGE = "judge"


def _judge() -> None:
    """Whatever was measured of a candidate, nothing is held against it."""
    _replace(_module("muster.deploy.judge"), "_broken", lambda *_: iter(()))


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _replace(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name):
        # A protection that has moved must not leave the control without effect.
        raise AttributeError(f"{owner} has no {name} to take out")
    setattr(owner, name, value)


def weakened(protection: str, command: Sequence[str]) -> tuple[str, ...]:
    """The command of a replica without this protection. command: that of a whole one, `python -m server`."""
    if protection not in PROTECTIONS:
        raise ValueError(f"no protection named {protection!r}")
    if tuple(command[-2:]) != ("-m", "server"):
        raise ValueError(f"only the server can be weakened, not {' '.join(command)}")
    return (*command[:-2], "-m", "drills.faults.weakened", protection)


def weakened_deployer() -> tuple[str, ...]:
    """The command of `muster` whose deploys have no judge."""
    return (sys.executable, "-m", "drills.faults.weakened", JUDGE)


def main(arguments: Sequence[str]) -> int:
    """Runs a replica, or a deployer; returns its exit code."""
    protection, *rest = arguments
    if protection == JUDGE:
        _judge()
        sys.argv[1:] = rest
        _module("muster.cli").main()
        return 0
    PROTECTIONS[protection]()
    code: int = _module("server.__main__").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
