from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from drills.experiment import Inconclusive, Judgement, Verdict
from drills.outcome import guarded, positive, run_folder, tell
from drills.rig.cluster import ClusterError


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.HELD, 0), (Verdict.DEVIATED, 10), (Verdict.INCONCLUSIVE, 20)]
)
def test_an_outcome_is_one_object_a_file_and_an_exit_code(
    verdict: Verdict, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = () if verdict is Verdict.HELD else ("because", "also")
    judgement = Judgement(verdict, {"reads": 3}, reasons)
    assert tell("x", judgement, as_json=True, folder=tmp_path, details={"seed": 1}) == code
    told = json.loads(capsys.readouterr().out)
    expected = {"drill": "x", "verdict": str(verdict), "reads": 3}
    assert told == (expected if verdict is Verdict.HELD else {**expected, "reason": "because; also"})
    stored = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert stored == {**told, "details": {"seed": 1}}


def test_people_are_told_the_figures_and_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judgement = Judgement(Verdict.DEVIATED, {"read_errors": 2, "rto_ms": {"min": 1, "max": 9}}, ("it broke",))
    tell("x", judgement, as_json=False, folder=tmp_path, details={})
    text = capsys.readouterr().out
    for part in ("x: deviated", "read errors", "min 1, max 9", "- it broke", str(tmp_path)):
        assert part in text


@pytest.mark.parametrize(
    "error", [Inconclusive("no bundle"), ClusterError("no bundle"), OSError("no bundle"), KeyboardInterrupt()]
)
def test_what_keeps_a_drill_from_telling_is_inconclusive(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert guarded("x", body, as_json=True, empty={"reads": 0}) == 20
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "inconclusive"
    assert told["reads"] == 0
    assert told["reason"] in ("no bundle", "interrupted")


def test_a_bug_in_a_drill_is_not_a_verdict() -> None:
    def body() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded("x", body, as_json=True, empty={})


def test_an_earlier_result_is_never_overwritten(tmp_path: Path) -> None:
    first = run_folder(tmp_path / "journal", "x")
    (first / "result.json").write_text("{}", encoding="utf-8")
    second = run_folder(tmp_path / "journal", "x")
    assert second != first
    assert second.parent == first


@pytest.mark.parametrize("text", ["0", "-1", "nan"])
def test_numbers_on_the_command_line_are_above_zero(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
        positive(float)(text)
    assert positive(int)("3") == 3
