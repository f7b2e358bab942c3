"""JUnit XML as build servers expect it."""

from __future__ import annotations

from xml.etree import ElementTree

from drills.report.junit import to_junit
from tests.drills.report.made import run


def test_a_deviation_is_a_failure_and_a_doubt_is_skipped() -> None:
    text = to_junit(
        [
            run(),
            run("hang", verdict="deviated", reason='<late> & "lost"\x01'),
            run("loss", verdict="inconclusive", reason="nft is missing"),
        ]
    )
    suite = ElementTree.fromstring(text.encode())
    assert {key: suite.attrib[key] for key in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    held, failed, skipped = suite
    assert held.find("failure") is None and held.find("skipped") is None
    assert failed.find("failure").attrib["message"] == '<late> & "lost"'  # type: ignore[union-attr]
    assert skipped.find("skipped").attrib["message"] == "nft is missing"  # type: ignore[union-attr]
    assert held.attrib["timestamp"] == "2023-11-14T22:13:20+00:00"
