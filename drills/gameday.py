"""A game day that comes by itself: the text that has cron or Kubernetes run the drills of a profile.

Printed, not installed: whoever runs the machine or the cluster puts it where it belongs.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_NUMBER = r"(?:\*|\d{1,2}(?:-\d{1,2})?)(?:/\d{1,2})?"
_FIELD = re.compile(rf"{_NUMBER}(?:,{_NUMBER})*", re.ASCII)
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = ("minute", "hour", "day of the month", "month", "day of the week")


class GameDayError(ValueError):
    """What was asked for cannot be written; the text says why."""


@dataclass(frozen=True)
class GameDay:
    """at: five fields as cron reads them. profile: of drills. bundle: on the machine, or in the container.
    folder: the checkout that the drills run in (cron). image: with Muster in it (Kubernetes).
    """

    at: str
    profile: str
    bundle: str
    folder: Path = Path()
    image: str = ""

    def __post_init__(self) -> None:
        check_moments(self.at)
        for what in (self.profile, self.bundle, self.image, str(self.folder)):
            if not what.isprintable():
                raise GameDayError(f"{what!r} cannot stand on one line")

    @property
    def command(self) -> str:
        """What is run: the verdicts go into the records, and the exit code tells."""
        return shlex.join(["muster", "drill", "gate", self.bundle, "--profile", self.profile])


def check_moments(at: str) -> None:
    """Whether cron understands it. Raises: GameDayError, naming the field."""
    fields = at.split()
    if len(fields) != len(_BOUNDS):
        raise GameDayError(f"{at!r}: cron wants five fields, such as '0 4 * * 1' for Mondays at four")
    for field, (low, high), name in zip(fields, _BOUNDS, _NAMES, strict=True):
        numbers = [int(number) for number in re.findall(r"(?<!/)\b\d+", field)]
        if not _FIELD.fullmatch(field) or any(not low <= number <= high for number in numbers):
            raise GameDayError(f"{field!r} is no {name}: {low} to {high}, *, lists, ranges and steps")


def to_cron(day: GameDay) -> str:
    """A line for a crontab. In it % would begin the input of the command, and is escaped."""
    folder = shlex.quote(str(day.folder.resolve()))
    command = f"cd {folder} && . .venv/bin/activate && {day.command} >> run/drills/game-day.log 2>&1"
    return f"{day.at} {command.replace('%', chr(92) + '%')}\n"


def to_kubernetes(day: GameDay) -> str:
    """A CronJob. Drills that need more than a container has (root, ptrace, cgroups) are inconclusive."""
    if not day.image:
        raise GameDayError("a CronJob needs --image: one with Muster, its drills and the bundle in it")
    return textwrap.dedent(
        f"""\
        apiVersion: batch/v1
        kind: CronJob
        metadata:
          name: muster-game-day
        spec:
          schedule: {_yaml(day.at)}
          concurrencyPolicy: Forbid
          jobTemplate:
            spec:
              backoffLimit: 0
              template:
                spec:
                  restartPolicy: Never
                  containers:
                    - name: drills
                      image: {_yaml(day.image)}
                      command: ["/bin/sh", "-c", {_yaml(day.command)}]
                      resources:
                        requests: {{cpu: "2", memory: 4Gi}}
                        limits: {{memory: 8Gi}}
        """
    )


FORMATS: Mapping[str, Callable[[GameDay], str]] = {"cron": to_cron, "kubernetes": to_kubernetes}


def _yaml(text: str) -> str:
    """A string in double quotes, as YAML and JSON both read it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
