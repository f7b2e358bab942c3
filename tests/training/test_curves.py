"""The curves of a run folder, as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib import image

from tests.training.conftest import Workplace
from training.curves import draw_curves, mean_curve, read_curves, smoothed


def test_the_teachers_curves_are_a_picture_with_both_sides_of_overfitting(workplace: Workplace) -> None:
    panels = read_curves(workplace.run, "teacher")
    assert set(panels) == {"loss", "ndcg10"}
    assert set(panels["ndcg10"]) == {"train", "unseen"}
    assert set(panels["ndcg10"]["unseen"]) == {"fold0-seed0", "fold1-seed0"}
    height, width, _ = image.imread(workplace.run / "teacher" / "curves.png").shape
    assert 300 <= height <= 1200 and 800 <= width <= 2400


def test_distilling_has_a_picture_of_its_own(workplace: Workplace) -> None:
    assert set(read_curves(workplace.run, "distil")) == {"loss"}
    assert (workplace.run / "distil" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_stage_without_curves_has_no_picture(tmp_path: Path) -> None:
    assert draw_curves(tmp_path, "teacher") is None
    (tmp_path / "curves.jsonl").write_text('{"step": 1, "split": "train", "name": "distil/a/loss", "val')
    assert draw_curves(tmp_path, "distil") is None
    assert list(tmp_path.iterdir()) == [tmp_path / "curves.jsonl"]


def test_a_point_belongs_to_its_run_and_quantity(tmp_path: Path) -> None:
    points = [
        {"step": 10, "split": "train", "name": "teacher/fold0-seed0/loss", "value": 2.0},
        {"step": 20, "split": "train", "name": "teacher/fold0-seed0/loss", "value": 1.0},
        {"step": 20, "split": "train", "name": "distil/cross_small/loss", "value": 9.0},
    ]
    (tmp_path / "curves.jsonl").write_text("\n".join(json.dumps(point) for point in points))
    assert read_curves(tmp_path, "teacher") == {"loss": {"train": {"fold0-seed0": {10: 2.0, 20: 1.0}}}}


def test_smoothing_keeps_the_ends_and_the_level() -> None:
    assert smoothed([1.0, 1.0, 1.0, 1.0], 3).tolist() == pytest.approx([1.0] * 4)
    assert smoothed([0.0, 3.0, 0.0], 3).tolist() == pytest.approx([1.5, 1.0, 1.5])
    assert smoothed([4.0, 2.0], 1).tolist() == pytest.approx([4.0, 2.0])


def test_the_mean_of_runs_that_end_early_goes_on_with_their_last_figure() -> None:
    assert mean_curve([{0: 0.0, 10: 1.0}, {0: 0.0, 10: 1.0, 20: 2.0}]) == {0: 0.0, 10: 1.0, 20: 1.5}
    assert mean_curve([{0: 4.0}, {5: 2.0}]) == {0: 4.0, 5: 3.0}
