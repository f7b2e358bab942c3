"""Scores become grades without a look at their own labels, and the report says what was taken for what."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.classes import calibration_bins, graded_by_share, write_classes
from training.recipe import DataSet, RecipeError

GRADES = {"0.0": "wrong", "1.0": "fair", "3.0": "right"}
SHOP = DataSet("shop", "shop", "judged", "", "", targets={"0.0": 0, "1.0": 0.5, "3.0": 1}, grades=GRADES)


def test_scores_in_the_judged_order_get_the_judged_grades() -> None:
    grades = np.array([0, 0, 1, 2] * 2)
    scores = np.array([-3.0, -2.0, 0.5, 4.0] * 2)
    folds = np.array([0] * 4 + [1] * 4)
    assert graded_by_share(scores, grades, folds, 3).tolist() == grades.tolist()


def test_labels_of_a_fold_have_no_say_in_its_own_grades() -> None:
    random = np.random.default_rng(3)
    scores, grades = random.normal(size=60), random.integers(3, size=60)
    folds = np.arange(60) % 2
    before = graded_by_share(scores, grades, folds, 3)
    changed = np.where(folds == 0, 0, grades)
    after = graded_by_share(scores, changed, folds, 3)
    assert before[folds == 0].tolist() == after[folds == 0].tolist()
    assert before[folds == 1].tolist() != after[folds == 1].tolist()


def test_shares_of_the_other_folds_are_kept() -> None:
    random = np.random.default_rng(4)
    scores = random.normal(size=4000)
    grades = random.choice(3, p=[0.6, 0.3, 0.1], size=4000)
    found = graded_by_share(scores, grades, np.arange(4000) % 2, 3)
    assert np.bincount(found) / 4000 == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_one_fold_alone_has_no_thresholds() -> None:
    with pytest.raises(ValueError, match="only one fold has labels"):
        graded_by_share(np.zeros(3), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), 2)


def test_the_report_counts_what_was_taken_for_what(tmp_path: Path) -> None:
    # Quartiles and medians: fold 1 sets fold 0's thresholds at 0.5 and 3, fold 0 sets fold 1's at 1.25 and
    # 2.5, so that the grades taken are 0 2 2 1 and 0 0 2 2.
    gains = [0.0, 1.0, 3.0, 3.0, 0.0, 1.0, 3.0, 3.0]
    scores = np.array([-1.0, 3.0, 6.0, 2.0, -1.0, 1.0, 5.0, 7.0])
    found = write_classes(tmp_path, SHOP, gains, scores, np.array([0] * 4 + [1] * 4))
    assert found["absent"] == []
    assert found["grades"]["right"]["pairs"] == 4
    assert found["grades"]["right"]["recall"] == 0.75
    assert found["accuracy"] == 0.625
    text = (tmp_path / "classes-shop.txt").read_text()
    assert "8 judged pairs" in text and "precision" in text and "macro avg" in text
    assert (tmp_path / "confusion-shop.png").read_bytes().startswith(b"\x89PNG")


def test_calibration_is_drawn_where_scores_are_logits(tmp_path: Path) -> None:
    gains, folds = [0.0, 3.0] * 20, np.array([0, 1] * 20)
    shop = replace(SHOP, targets={"0.0": 0.0, "1.0": 0.3, "3.0": 1.0})
    sure = np.array([-6.0, 6.0] * 20)
    found = write_classes(tmp_path, shop, gains, sure, folds, sure)
    assert found["calibration_error"] == pytest.approx(0.0025, abs=1e-3)
    assert (tmp_path / "calibration-shop.png").read_bytes().startswith(b"\x89PNG")
    assert write_classes(tmp_path, shop, gains, sure, folds, -sure)["calibration_error"] > 0.9


def test_a_tenth_of_the_pairs_is_one_point_of_the_calibration() -> None:
    said = np.linspace(0.0, 1.0, 100)
    bins = calibration_bins(said, said**2)
    assert [count for _, _, count in bins] == [10] * 10
    assert bins[0][0] < bins[0][1] + 0.1 and bins[-1][1] == pytest.approx(0.91, abs=0.01)
    assert calibration_bins(said[:3], said[:3]) == [(float(one), float(one), 1) for one in said[:3]]


def test_a_grade_that_no_pair_has_is_named(tmp_path: Path) -> None:
    gains = [0.0, 3.0, 0.0, 3.0]
    found = write_classes(tmp_path, SHOP, gains, np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    assert found["absent"] == ["fair"]
    assert "no pair is judged fair" in (tmp_path / "classes-shop.txt").read_text()


def test_a_gain_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.shop\.grades says nothing of the gain 2\.0"):
        write_classes(tmp_path, SHOP, [0.0, 2.0], np.zeros(2), np.array([0, 1]))


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn.metrics", "scikit-learn"), ("matplotlib.figure", "matplotlib")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RecipeError, match=f"pip install {package}"):
        write_classes(tmp_path, SHOP, [0.0, 3.0, 0.0], np.zeros(3), np.array([0, 1, 1]))
