"""What a bundle's models are opened with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from muster.bundle import read_bundle
from server import config
from server.release import held


class Asked(Exception):
    """Raised in place of an engine."""


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("chunk_pairs", 7),
        ("reserve_ms", 1.25),
        ("queue_max", 123),
        ("backlog_ms", 17.5),
        ("price_gain", 0.75),
        ("kernels", "onnxruntime"),
        ("taste_weight", 0.5),
        ("workers", 1),
    ],
)
def test_every_ranking_setting_reaches_the_core(
    setting: str, value: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def engine(folder: str, **options: Any) -> None:
        given.update(options)
        raise Asked

    monkeypatch.setattr(held.rankcore, "Engine", engine)
    settings = config.load(None, {"bundle": str(bundle), "data_dir": "d", f"ranking.{setting}": str(value)})
    with pytest.raises(Asked):
        held.open_models(settings, read_bundle(bundle), "a")
    assert given[setting] == value
