"""Spoilt bundles: good by every check, bad to serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rankcore
from drills.experiment import Inconclusive
from drills.faults.bundles import make, repeated, turned
from muster.bundle import read_bundle, write_bundle
from tests.fixtures.bundle_variants import plain
from tests.fixtures.tiny_bundle import ranker


def rows() -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 1, (40, 5))


def test_a_turned_ranker_puts_the_worst_first() -> None:
    good, bad = rankcore.forest_score(ranker(), rows()), rankcore.forest_score(turned(ranker()), rows())
    np.testing.assert_allclose(bad, -good)


def test_a_repeated_ranker_gives_the_same_order_with_many_times_the_trees() -> None:
    text = repeated(ranker())
    assert text.count("\nTree=") == 100 * ranker().count("\nTree=")
    good, bad = rankcore.forest_score(ranker(), rows()), rankcore.forest_score(text, rows())
    np.testing.assert_allclose(bad, 100 * good)


@pytest.mark.parametrize("kind", ["wrong", "slow"])
def test_a_spoilt_bundle_is_whole_and_reproduces_its_golden_requests(kind: str, tmp_path: Path) -> None:
    plain(tmp_path / "good")
    bundle_id = make(kind, tmp_path / "good", tmp_path / "bad")
    assert read_bundle(tmp_path / "bad").bundle_id == bundle_id
    engine = rankcore.Engine(str(tmp_path / "bad"), runtime_library=rankcore.runtime_library(), workers=1)
    try:
        assert engine.verify_golden() == []
    finally:
        engine.close()


def test_a_bundle_without_rankers_cannot_be_spoilt(tmp_path: Path) -> None:
    plain(tmp_path / "good")
    good = read_bundle(tmp_path / "good")
    files: dict[str, bytes | Path] = {
        name: good.folder / name for name in good.manifest.files if not name.startswith("ranker/")
    }
    write_bundle(tmp_path / "bare", "bare", files, created_unix_s=1, muster_version="0.1.0")
    with pytest.raises(Inconclusive, match="no ranker"):
        make("wrong", tmp_path / "bare", tmp_path / "bad")
