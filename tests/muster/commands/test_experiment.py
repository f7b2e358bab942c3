from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from muster.cli import app


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["experiment", *arguments])
    return found.exit_code, found.stdout


def log(folder: Path, rows: list[tuple[str, str, bool]]) -> str:
    path = folder / "log.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"experiment": "k", "shopper": shopper, "variant": variant, "success": success})
            for shopper, variant, success in rows
        )
    )
    return str(path)


def test_a_plan_and_an_assignment_are_printed() -> None:
    code, text = run("plan", "--rate", "0.1", "--change", "0.02", "--json")
    assert code == 0 and 7_000 < json.loads(text)["shoppers"] < 8_500
    code, text = run("assign", "k", "s1", "--json")
    assert code == 0 and json.loads(text)["s1"] in ("control", "variant")


def test_a_shopper_counts_once(tmp_path: Path) -> None:
    path = log(tmp_path, [("s1", "control", False), ("s1", "control", True), ("s2", "variant", False)])
    code, text = run("report", "k", path, "--json")
    assert code == 0
    assert [row["shoppers"] for row in json.loads(text)["variants"]] == [1, 1]
    assert [row["rate"] for row in json.loads(text)["variants"]] == [1.0, 0.0]


def test_a_broken_sample_ratio_deviates_and_no_difference_is_told(tmp_path: Path) -> None:
    rows = [(f"s{at}", "control" if at % 4 else "variant", False) for at in range(400)]
    code, text = run("report", "k", log(tmp_path, rows), "--json")
    assert code == 10 and all("difference" not in row for row in json.loads(text)["variants"])


def test_a_variant_without_shoppers_is_inconclusive(tmp_path: Path) -> None:
    assert run("report", "k", log(tmp_path, [("s1", "control", True)]))[0] == 20


@pytest.mark.parametrize(
    "rows", [[("s1", "control", True), ("s1", "variant", True)], [("s1", "other", True)]]
)
def test_a_log_that_contradicts_itself_is_refused(tmp_path: Path, rows: list[tuple[str, str, bool]]) -> None:
    assert run("report", "k", log(tmp_path, rows))[0] == 2


@pytest.mark.parametrize("shares", ["a=1", "a=0.5,b=x", "a=0.5,a=0.5", "a=0.9,b=0.9"])
def test_impossible_shares_are_refused(shares: str) -> None:
    assert run("assign", "k", "s1", "--shares", shares)[0] == 2
