"""The newest run of every drill as JUnit XML, which build servers read: deviated is a failure, inconclusive
is skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from drills.report.records import Run


def to_junit(runs: Sequence[Run]) -> str:
    """One test case a run."""
    suite = ElementTree.Element(
        "testsuite",
        name="drills",
        tests=str(len(runs)),
        failures=str(sum(run.verdict == "deviated" for run in runs)),
        skipped=str(sum(run.verdict == "inconclusive" for run in runs)),
        errors="0",
    )
    for run in runs:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="drills",
            name=run.drill,
            timestamp=datetime.fromtimestamp(run.ended_unix_s, UTC).isoformat(timespec="seconds"),
        )
        if run.verdict == "deviated":
            failure = ElementTree.SubElement(case, "failure", message=_clean(run.reason), type="deviated")
            failure.text = _clean(run.reason)
        elif run.verdict != "held":
            ElementTree.SubElement(case, "skipped", message=_clean(run.reason))
        properties = ElementTree.SubElement(case, "properties")
        for name, value in run.figures.items():
            ElementTree.SubElement(properties, "property", name=name, value=json.dumps(value))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold at all."""
    return "".join(mark for mark in text if mark in "\t\n\r" or ord(mark) >= 0x20)
