"""The alerts that a drill expects, watched by Muster's own evaluator in a process beside the drill.

Nobody waits five minutes in a drill for an alert: every window and duration of the rules is divided, by 60
unless the book says otherwise, so that a minute lasts a second, and replicas are looked at every
``INTERVAL_MS``, as Prometheus would every 15 s. Thresholds stay as they are.

``MUSTER_DRILL_ALERTS`` says what an alert means that stays away: with `require` (the default) the drill
deviates, with `ignore` it is told and does not count, with `off` nobody watches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drills.experiment import AlertFindings, Inconclusive
from drills.journal import History
from drills.judges.alerts import Watched, judge_alerts

INTERVAL_MS = 250
MODES = ("require", "ignore", "off")
_BEGUN = "watching "
"""What `muster alerts watch` says once it has looked for the first time begins with this."""

_BEGIN_S = 60.0
_SETTLED_S = 10.0
_POLL_S = 0.1
_END_S = 5.0
_NICENESS = "5"
_TETHER = Path(__file__).with_name("tether.py")
_ROOT = Path(__file__).resolve().parents[2]


def mode() -> str:
    """What the environment says of alerts. Raises: Inconclusive for a word that is none of ``MODES``."""
    found = os.environ.get("MUSTER_DRILL_ALERTS") or MODES[0]
    if found not in MODES:
        raise Inconclusive(f"MUSTER_DRILL_ALERTS is one of {', '.join(MODES)}, not {found!r}")
    return found


class AlertWatch:
    """One evaluator over the replicas of a cluster. Close it.

    watched: what must fire and end in each run. endpoints: host:port of the replicas' metrics.
    Raises: Inconclusive where the evaluator does not begin.
    """

    def __init__(self, watched: Watched, endpoints: Sequence[str], folder: Path) -> None:
        self.watched = watched
        self.required = watched.counts and mode() == "require"
        self._path = folder / "alerts.jsonl"
        self._path.unlink(missing_ok=True)
        self._log = folder / "alerts.log"
        with self._log.open("wb") as log:
            # Of lower priority, so that watching takes little from what is watched.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-IS",
                    str(_TETHER),
                    str(os.getpid()),
                    *("nice", "-n", _NICENESS, sys.executable, "-m", "muster.cli", "alerts", "watch"),
                    *("--target", ",".join(endpoints), "--log", str(self._path)),
                    *("--interval", f"{INTERVAL_MS}ms", "--scale", repr(1 / watched.faster)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join((str(_ROOT), os.environ.get("PYTHONPATH", ""))),
                },
                start_new_session=True,
            )
        self._begin()

    def _begin(self) -> None:
        """Waits for the first look: a fault before it would not be seen to begin."""
        end_s = time.monotonic() + _BEGIN_S
        while _BEGUN not in self._log.read_text(encoding="utf-8", errors="replace"):
            if self._process.poll() is not None or time.monotonic() >= end_s:
                self.close()
                raise Inconclusive(f"the evaluator of the alerts did not begin; {self._log} says why")
            time.sleep(_POLL_S)

    def changes(self, since_unix_s: float) -> list[dict[str, Any]]:
        """What began to fire or ended since a moment, oldest first: alert, status, labels, at_unix_s."""
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            read = json.loads(line)
            at_s = datetime.fromisoformat(read.get("ended", read["started"])).timestamp()
            if at_s >= since_unix_s:
                found.append(
                    {
                        "alert": read["alert"],
                        "status": read["status"],
                        "labels": read["labels"],
                        "at_unix_s": at_s,
                    }
                )
        return found

    def settled(self, since_unix_s: float) -> list[dict[str, Any]]:
        """As ``changes``, once all that is expected has fired and ended, or some seconds later."""
        end_s = time.monotonic() + _SETTLED_S
        due = {one.name for one in self.watched.due}
        while True:
            found = self.changes(since_unix_s)
            ended = {one["alert"] for one in found if one["status"] == "resolved"}
            if ended >= due or time.monotonic() >= end_s or self._process.poll() is not None:
                return found
            time.sleep(_POLL_S)

    def judged(self, history: History, excuse: str | None) -> AlertFindings:
        """What the alerts in the history tell; nothing where the evaluator has ended."""
        found = judge_alerts(history, self.watched, excuse=excuse)
        if self._process.poll() is None:
            return found
        return AlertFindings(
            found.figures, (), (f"the evaluator of the alerts has ended; {self._log} says why",)
        )

    def close(self) -> None:
        """End the process. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
