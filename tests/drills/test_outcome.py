from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from drills.experiment import Inconclusive, Judgement, Verdict
from drills.judges.alerts import over_runs
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


def test_alerts_are_told_in_sentences_over_all_parts_of_a_drill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(fired_ms: float, others: list[str]) -> dict[str, Any]:
        run = {"MusterStale": {"fired_ms": fired_ms, "resolved_ms": 2_000.0, "within_ms": 3_000.0}}
        return {"alerts": over_runs([{**run, "others": others, "unforeseen": others}])}

    details = {"one": part(500.0, []), "other": part(700.0, ["MusterDrift"])}
    tell("x", Judgement(Verdict.HELD, {"reads": 3}), as_json=False, folder=tmp_path, details=details)
    told = capsys.readouterr().out
    assert "MusterStale fired 600 ms after the fault (limit 3000 ms), ended 2000 ms after it" in told
    assert "without a known cause: MusterDrift" in told
    kept = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["alerts"]
    assert kept["MusterStale"]["fired_ms_max"] == 700.0
    assert kept["unforeseen"] == ["MusterDrift"]


@pytest.mark.parametrize(
    "error",
    [
        Inconclusive("no bundle"),
        ClusterError("no bundle"),
        OSError("no bundle"),
        grpc.RpcError("no bundle"),
        KeyboardInterrupt(),
    ],
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
    assert told["reason"].endswith(("no bundle", "interrupted"))


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
