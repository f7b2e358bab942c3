"""What a card says of a search and of overfitting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.training.conftest import Workplace
from training.card import deadline_lines, overfitting, overfitting_lines


def point(name: str, depth: int, ms: float, ndcg10: float) -> dict[str, Any]:
    """One point of a search's report."""
    worth = {"ndcg10": ndcg10, "low": ndcg10 - 0.05, "high": ndcg10 + 0.05}
    gain = {"ndcg10": ndcg10 - 0.7, "low": ndcg10 - 0.71, "high": ndcg10 - 0.69}
    return {"name": name, "depth": depth, "ms": ms, **worth, "over_cheap": gain}


REPORT = {
    "deadline_ms": 50.0,
    "finished": 2,
    "ended_early": 1,
    "queries": 80,
    "quality": "judged products",
    "milliseconds": "of this machine",
    "points": [
        point("dense and late scores alone", 0, 2.0, 0.7),
        point("student 1: all 6 layers, depth 8", 8, 30.0, 0.8),
        point("student 2: 2 of 6 layers, depth 8", 8, 30.5, 0.75),
    ],
    "front": [0, 1],
    "choice": {"point": 1, "reasons": ["It fits.", "It is surely better."]},
}


def test_the_deadline_the_reasons_and_the_front_are_told() -> None:
    text = "\n".join(deadline_lines(REPORT))
    assert "## Chosen for a deadline\n\nDeadline: 50 ms." in text
    assert "- It fits.\n- It is surely better." in text
    assert "| dense and late scores alone | 2.0 | 0.700 [0.650, 0.750] |  |" in text
    assert "| student 1: all 6 layers, depth 8 (chosen) | 30.0 | 0.800 [0.750, 0.850] | +0.100" in text
    assert "student 2" not in text


def test_a_run_without_a_search_says_nothing_of_one() -> None:
    assert deadline_lines(None) == []
    assert overfitting(None) is None and overfitting_lines(None) == []
    assert overfitting({"members": [{"curves": {"train loss": [[10, 0.5]]}}]}) is None


def test_overfitting_is_what_the_gains_differ_by() -> None:
    curves = {
        "train ndcg10": [[0, 0.7], [10, 0.8], [20, 0.95]],
        "unseen ndcg10": [[0, 0.6], [10, 0.7], [20, 0.65]],
    }
    found = overfitting({"members": [{"curves": curves}, {"curves": {"train loss": []}}]})
    assert found == {
        "teachers": 1,
        "before": {"train": 0.7, "unseen": 0.6},
        "end": {"train": 0.95, "unseen": 0.65},
    }
    text = "\n".join(overfitting_lines(found))
    assert "| they learn from | 0.700 | 0.950 | +0.250 |" in text
    assert "The gains differ by +0.200" in text


def test_the_figures_are_those_of_the_teachers_report(workplace: Workplace) -> None:
    report = json.loads((workplace.run / "teacher" / "report.json").read_text())
    found = overfitting(report)
    assert found is not None and found["teachers"] == workplace.recipe.folds
    last = [member["curves"]["unseen ndcg10"][-1][1] for member in report["members"]]
    assert found["end"]["unseen"] == pytest.approx(sum(last) / len(last), abs=1e-4)
