"""A tool that gives no answer makes an audit inconclusive, never good."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest

from scripts import audit_dependencies as audit


def saying(stdout: str, code: int = 0, stderr: str = "") -> audit.Run:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    return run


def of_pip(*weaknesses: str) -> str:
    package = {"name": "thing", "version": "1", "vulns": [{"id": name} for name in weaknesses]}
    skipped = {"name": "muster", "skip_reason": "distribution marked as editable"}
    return json.dumps({"dependencies": [package, skipped], "fixes": []})


def test_weaknesses_are_told_whatever_the_exit_code() -> None:
    answer = audit.python_answer(saying(of_pip("CVE-1", "CVE-2"), 1))
    assert answer.weaknesses == ("thing 1 CVE-1", "thing 1 CVE-2")
    assert audit.verdict([answer, audit.Answer("cargo-audit", problem="not installed")]) == audit.WEAK


def test_none_known_is_sound_only_where_both_were_asked() -> None:
    answer = audit.python_answer(saying(of_pip()))
    assert (answer.packages, answer.weaknesses, answer.problem) == (1, (), "")
    assert audit.verdict([answer, audit.Answer("cargo-audit", 3)]) == audit.SOUND
    assert audit.verdict([answer, audit.Answer("cargo-audit", problem="no")]) == audit.INCONCLUSIVE


@pytest.mark.parametrize("stdout", ["", "{}", "[]", '{"dependencies": 3}', '{"dependencies": []}', "<html>"])
def test_what_cannot_be_read_is_no_answer(stdout: str) -> None:
    answer = audit.python_answer(saying(stdout, 1, "first\nthe service cannot be reached\n"))
    assert answer.problem
    assert audit.verdict([answer]) == audit.INCONCLUSIVE


def test_a_tool_that_is_not_there_is_no_answer() -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(2, "no such program")

    assert "could not be run" in audit.python_answer(run).problem


def test_a_package_that_was_not_looked_up_is_no_answer_though_the_tool_says_none_known() -> None:
    values = json.loads(of_pip())
    values["dependencies"].append({"name": "other", "skip_reason": "not found and could not be audited"})
    answer = audit.python_answer(saying(json.dumps(values)))
    assert (answer.packages, answer.problem) == (1, "it could not look up 1 of 3 packages")
    assert audit.verdict([answer]) == audit.INCONCLUSIVE
