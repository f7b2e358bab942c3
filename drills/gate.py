"""The gate: drills that must hold with a bundle before a deploy may bring it into service.

The drills of a profile are run with the bundle, one after the other, each in a process of its own. The
verdict goes beside the bundle, signed; replicas with the setting `release.gate` load no bundle without it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drills.book import UnknownDrill, find
from drills.experiment import Verdict, worst
from drills.journal import machine
from muster.bundle import Gate, Rehearsed, SigningKey, read_bundle, write_gate

DRILL_S_MAX = 1_800.0
"""Longest that one drill may take; then it counts as inconclusive."""


class ProfileError(Exception):
    """A profile cannot be used; the text says why."""


@dataclass(frozen=True)
class Task:
    """One drill of a profile, with its options."""

    drill: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """As it stands in the profile."""
        return shlex.join([self.drill, *self.options])


def load_profile(name: str, path: Path | None = None) -> list[Task]:
    """The drills of a profile. path: a file of one's own; None: those that come with the drills.

    Raises: ProfileError.
    """
    source = resources.files("drills").joinpath("profiles.toml") if path is None else path
    try:
        profiles = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{source} cannot be read as profiles: {error}") from error
    profile = profiles.get(name)
    if not isinstance(profile, dict):
        raise ProfileError(
            f"no profile {name!r} in {source}; there are: {', '.join(sorted(profiles)) or 'none'}"
        )
    lines = profile.get("drills")
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise ProfileError(f"the profile {name!r} in {source} needs a list of drills, at least one")
    return [_task(line, name) for line in lines]


def _task(line: str, profile: str) -> Task:
    try:
        drill, *options = shlex.split(line)
        found = find(drill)
    except UnknownDrill as error:
        raise ProfileError(f"profile {profile!r}: {error}") from error
    except ValueError as error:
        raise ProfileError(f"profile {profile!r}: {line!r} names no drill: {error}") from error
    return Task(found.name, tuple(options))


def rehearse(task: Task, bundle: Path | None, *, interpreter: str = sys.executable) -> Rehearsed:
    """Runs one drill with the bundle (None: that of the drill); its progress goes to standard error."""
    chosen = () if bundle is None else ("--bundle", str(bundle))
    command = [interpreter, "-m", f"drills.{task.drill}", "--json", *chosen, *task.options]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=DRILL_S_MAX)
    except subprocess.TimeoutExpired:
        return Rehearsed(
            task.drill, str(Verdict.INCONCLUSIVE), f"took longer than {DRILL_S_MAX:.0f} s", task.command, {}
        )
    return read_outcome(task, ended.stdout, ended.returncode)


def read_outcome(task: Task, told: str, code: int) -> Rehearsed:
    """What a drill printed and exited with; anything but its verdict makes it inconclusive."""
    try:
        outcome: Any = json.loads(told)
        verdict = Verdict(outcome["verdict"])
        agrees = verdict.exit_code == code
    except (ValueError, KeyError, TypeError):
        agrees = False
    if not agrees:
        reason = f"it told no verdict and ended with exit code {code}"
        return Rehearsed(task.drill, str(Verdict.INCONCLUSIVE), reason, task.command, {})
    figures = {key: value for key, value in outcome.items() if key not in ("drill", "verdict", "reason")}
    return Rehearsed(task.drill, str(verdict), str(outcome.get("reason", "")), task.command, figures)


def run_gate(
    bundle: Path,
    profile: str,
    tasks: Sequence[Task],
    key: SigningKey | None,
    *,
    override: str = "",
    tell: Callable[[str], None],
    rehearse: Callable[[Task, Path], Rehearsed] = rehearse,
) -> tuple[Gate, Verdict]:
    """Runs the drills and writes the verdict beside the bundle; returns it, and the worst of the verdicts.

    Raises: BundleError where the bundle is none, or the verdict cannot be written.
    """
    verified = read_bundle(bundle)
    done = []
    for number, task in enumerate(tasks, 1):
        tell(f"{number} of {len(tasks)}: {task.command}")
        one = rehearse(task, verified.folder.resolve())
        tell(f"{task.drill}: {one.verdict}" + (f", {one.reason}" if one.reason else ""))
        done.append(one)
    gate = Gate(
        bundle_id=verified.bundle_id,
        profile=profile,
        made_unix_s=int(time.time()),
        muster_version=version("muster"),
        drills=tuple(done),
        machine=machine(),
        override=override,
    )
    return write_gate(bundle, gate, key), worst([Verdict(one.verdict) for one in done])
