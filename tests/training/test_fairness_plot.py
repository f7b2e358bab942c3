"""The picture of a fairness report is written, whatever groups there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.fairness_plot import draw


def group(name: str, ratio: float | None, merit: float = 0.2) -> dict[str, Any]:
    span = None if ratio is None else {"ratio": ratio, "low": ratio - 0.2, "high": ratio + 0.3}
    return {"group": name, "merit": merit, "exposure": 0.1, "exposure_to_merit": span}


def report(*ratios: float | None) -> dict[str, Any]:
    before = [group(f"brand of a rather long name, number {at}", ratio) for at, ratio in enumerate(ratios)]
    after = [group(one["group"], one["exposure_to_merit"] and 1.0) for one in before]
    return {
        "bundle": "b",
        "plan": "late@50",
        "by": "brand",
        "queries": 30,
        "floor": 0.8,
        "before": before,
        "after": after,
    }


@pytest.mark.parametrize("ratios", [(0.5, 1.4, 0.9), (None, 0.7), (), tuple([1.0] * 30)])
def test_a_picture_is_drawn(tmp_path: Path, ratios: tuple[float | None, ...]) -> None:
    from matplotlib import image

    path = tmp_path / "exposure.png"
    draw(report(*ratios), path)
    pixels = image.imread(path)
    assert pixels.shape[1] == 900
    # Both series are in it, by their colours, where there is anything to show.
    blue = (abs(pixels[..., :3] - [0x1F / 255, 0x6F / 255, 0xB2 / 255]) < 0.02).all(axis=-1).sum()
    shown = sum(ratio is not None for ratio in ratios[:20])
    assert blue > 40 * shown
