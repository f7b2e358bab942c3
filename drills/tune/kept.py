"""What a tune has measured so far: a row in the records for each run, and a file for what it began with.

A tune that is interrupted goes on from here: it asks for the same runs in the same order, and those that are
kept are not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drills.experiment import Inconclusive, Verdict
from drills.journal import machine
from drills.report.noise import Noise
from drills.report.records import Records, Run
from drills.tune.outcome import Outcome
from drills.tune.quiet import Quiet
from drills.tune.rules import Calibration
from drills.tune.space import Point, key

ROW = "tune_run"
"""How the records name one run of a tune."""

STUDY = "study.json"
ROWS_MAX = 1_000_000


@dataclass
class Study:
    """What a tune began with. profile: as it was read. sections: of the replicas' settings, beside what is
    tuned. client: the client's settings. points: that the search tries. calibration: None: not yet.
    """

    name: str
    seed: int
    start: dict[str, float]
    profile: dict[str, Any]
    sections: dict[str, Any]
    client: dict[str, Any]
    bundle: str
    minutes: float
    calibration: dict[str, Any] | None = None
    points: int = 0
    runs: int = 0

    def measured(self) -> Calibration | None:
        """The calibration."""
        return None if self.calibration is None else Calibration(**self.calibration)

    def write(self, folder: Path) -> None:
        """Keeps it, by rename."""
        half = folder / f"{STUDY}.part"
        half.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        half.replace(folder / STUDY)


def read_study(folder: Path) -> Study:
    """Of a tune that was begun in this folder. Raises: Inconclusive, saying what is wrong with it."""
    try:
        return Study(**json.loads((folder / STUDY).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise Inconclusive(f"{folder} holds no tune that can go on: {error}") from error


def newest_study(base: Path) -> Path:
    """The folder of the tune that was begun last. Raises: Inconclusive where there is none."""
    found = sorted(base.glob(f"tune-*/{STUDY}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise Inconclusive(f"there is no tune in {base} to go on with")
    return found[-1].parent


class Kept:
    """The runs of one study in the records.

    Disturbed runs are rows too, but are done again.
    """

    def __init__(self, records: Records, study: Study, folder: Path) -> None:
        self._records = records
        self._study = study
        self._folder = folder
        self._known: dict[tuple[str, int], Outcome] = {}
        self._survived: dict[tuple[str, int], tuple[bool, str]] = {}
        for row in reversed(records.of(ROW, limit=ROWS_MAX)):
            if row.details.get("study") == study.name:
                self._take(row.details)

    def _take(self, details: dict[str, Any]) -> None:
        if "survived" in details:
            at = (key(details["point"]), int(details["replicas"]))
            self._survived[at] = (bool(details["survived"]), str(details["why"]))
        elif not details["outcome"]["disturbed"]:
            at = (key(details["point"]), int(details["seed"]))
            self._known[at] = Outcome.from_plain(details["outcome"])

    def __len__(self) -> int:
        return len(self._known)

    def outcome(self, point: Point, seed: int) -> Outcome | None:
        """Of a run that was done already."""
        return self._known.get((key(point), seed))

    def survived(self, point: Point, replicas: int) -> tuple[bool, str] | None:
        """Whether so many replicas held their drills, where that is known."""
        return self._survived.get((key(point), replicas))

    def add(self, stage: str, point: Point, seed: int, outcome: Outcome, noise: Quiet | None) -> None:
        """Keeps a run. Raises: RecordsError."""
        details = {"stage": stage, "seed": seed, "outcome": outcome.plain()}
        verdict = Verdict.DEVIATED if outcome.violations else Verdict.HELD
        if outcome.disturbed:
            verdict = Verdict.INCONCLUSIVE
        reason = outcome.disturbed or "; ".join(outcome.violations)
        figures = {
            name: getattr(outcome, name)
            for name in (
                "unavailable_s",
                "read_missed_share",
                "flood_missed_share",
                "quality_lost_share",
                "extra_load_share",
                "replicas",
                "took_s",
            )
        }
        self._write(point, verdict, reason, figures, details, noise)

    def add_survival(self, point: Point, replicas: int, held: bool, why: str) -> None:
        """Keeps whether so many replicas held their drills. Raises: RecordsError."""
        details = {"stage": "replicas", "replicas": replicas, "survived": held, "why": why}
        verdict = Verdict.HELD if held else Verdict.DEVIATED
        self._write(point, verdict, "" if held else why, {"replicas": replicas}, details, None)

    def _write(
        self,
        point: Point,
        verdict: Verdict,
        reason: str,
        figures: dict[str, Any],
        details: dict[str, Any],
        noise: Quiet | None,
    ) -> None:
        told = {"study": self._study.name, "point": dict(point), **details}
        machine_noise = (
            {} if noise is None else {**Noise(fsync_p99_ms=noise.fsync_p99_ms).plain(), **noise.plain()}
        )
        run = Run(
            drill=ROW,
            verdict=str(verdict),
            reason=reason,
            ended_unix_s=time.time(),
            folder=str(self._folder),
            version=version("muster"),
            figures=figures,
            details=told,
            machine=machine(),
            noise=machine_noise,
        )
        self._records.add(run)
        self._take(told)


def missing(kept: Kept, point: Point, seeds: Sequence[int]) -> Iterator[int]:
    """The seeds of the runs that are still to be done."""
    return (seed for seed in seeds if kept.outcome(point, seed) is None)
