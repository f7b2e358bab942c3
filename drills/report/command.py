"""`muster drill report` and `muster drill compare`: from the records to a page, a table or a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drills.book import DRILLS, Drill
from drills.report.compare import Compared
from drills.report.junit import to_junit
from drills.report.page import NEVER, Section, draw, render
from drills.report.records import Records, Run
from drills.report.summary import summarise, telling_history

SHOWN_RUNS = 50


def sections(records: Records, book: Sequence[Drill] = DRILLS, *, pictures: bool = True) -> list[Section]:
    """What there is to say of every drill of the book. pictures: with the histories. Raises: RecordsError."""
    found = []
    for drill in book:
        runs = records.of(drill.name, limit=SHOWN_RUNS)
        history = None
        if runs and pictures:
            history = telling_history(Path(runs[0].folder), runs[0].details.get("each") or [])
        found.append(Section(drill, runs, history, None if history is None else summarise(history)))
    return found


def write_page(found: Sequence[Section], path: Path) -> None:
    """Writes the page by rename, so that a reader finds the old one or the new one. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(render(found, made_unix_s=time.time(), picture=draw), encoding="utf-8")
    half.replace(path)


def write_junit(found: Sequence[Section], path: Path) -> None:
    """Writes the newest runs as JUnit XML. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_junit([section.runs[0] for section in found if section.runs]), encoding="utf-8")


def plain_section(section: Section) -> dict[str, Any]:
    """A drill's newest run and the one before, as JSON values."""
    return {
        "drill": section.drill.name,
        "verdict": None if section.verdict == NEVER else section.verdict,
        "hypothesis": section.drill.hypothesis,
        "run": plain_run(section.runs[0]) if section.runs else None,
        "before": plain_run(section.runs[1]) if len(section.runs) > 1 else None,
        "summary": None if section.summary is None else section.summary.plain(),
        "runs": len(section.runs),
    }


def plain_run(run: Run) -> dict[str, Any]:
    """A run as JSON values, without its single runs."""
    return {
        "number": run.number,
        "drill": run.drill,
        "verdict": run.verdict,
        "reason": run.reason,
        "ended_unix_s": run.ended_unix_s,
        "version": run.version,
        "figures": run.figures,
        "machine": run.machine,
        "noise": run.noise,
        "folder": run.folder,
    }


def plain_compared(compared: Compared) -> dict[str, Any]:
    """One figure of two runs as JSON values."""
    return {
        "figure": compared.figure,
        "a": compared.a,
        "b": compared.b,
        "runs": list(compared.runs),
        "difference_low": compared.low,
        "difference_high": compared.high,
        "apart": compared.apart,
    }
