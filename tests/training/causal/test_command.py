from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.causal.test_effect import shop
from training.causal import command

ASKED = ("--treatment", "badge", "--outcome", "bought", "--covariates", "a,b,c", "--json")


def written(path: Path, rows: int = 3_000) -> str:
    covariates, treated, outcome, _ = shop(rows)
    table = np.column_stack([covariates, treated, outcome])
    np.savetxt(path, table, delimiter=",", header="a,b,c,badge,bought", comments="")
    return str(path)


def test_effect_and_refutations_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([written(tmp_path / "rows.csv"), *ASKED]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["effect"]["low"] > 0 and found["plain"] > found["effect"]["high"]
    assert found["failed"] == [] and set(found["refutations"]) == {"placebo", "random_cause", "subset"}


def test_few_rows_are_inconclusive(tmp_path: Path) -> None:
    assert command.main([written(tmp_path / "rows.csv", 100), *ASKED]) == 20


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "a,b,c,badge,bought\n1,2,3,2,0\n", "a,b,c,badge,bought\nx,2,3,1,0\n"]
)
def test_bad_rows_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert command.main([str(path), *ASKED]) == 2


def test_a_placebo_with_an_effect_is_a_failure() -> None:
    same = command.Effect(0.1, 0.05, 0.15)
    checks = {"placebo": same, "random_cause": same, "subset": command.Effect(0.3, 0.2, 0.4)}
    assert command.refuted(same, checks) == ["placebo", "subset"]
