"""The noise is normal, of the size that was asked for, on the grid, and follows from the secret alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse, stats

from training.recipe import RecipeError
from training.recommend.private.noise import GRID, Noise, on_grid, secret_of
from training.recommend.private.tables import noisy_popularity, noisy_steps

SECRET = bytes(range(32))


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_it_is_normal_with_the_deviation_that_was_asked_for(deviation: float) -> None:
    found = Noise(SECRET).gaussian("a", 200_001, deviation)
    assert found.std() == pytest.approx(deviation, rel=0.01)
    assert stats.kstest(found / deviation, "norm").pvalue > 0.01
    # The tails too: beyond four deviations lie 63 of a million.
    assert 2 <= int((np.abs(found) > 4 * deviation).sum()) <= 28


def test_it_is_whole_steps_of_the_grid() -> None:
    found = Noise(SECRET).gaussian("a", 1000, 0.7)
    assert (found / GRID == np.rint(found / GRID)).all()


def test_the_same_secret_and_label_give_the_same_and_others_do_not() -> None:
    noise = Noise(SECRET)
    assert (noise.gaussian("a", 50, 1.0) == Noise(SECRET).gaussian("a", 50, 1.0)).all()
    assert (noise.uniform("u", 50) == noise.uniform("u", 50)).all()
    assert noise.seed("a") == noise.seed("a") != noise.seed("b")
    for other in (
        noise.gaussian("b", 50, 1.0),
        Noise(SECRET[::-1]).gaussian("a", 50, 1.0),
        Noise(SECRET, "other data").gaussian("a", 50, 1.0),
    ):
        assert (noise.gaussian("a", 50, 1.0) != other).mean() > 0.9


def test_uniform_numbers_are_even() -> None:
    found = Noise(SECRET).uniform("u", 100_000)
    assert 0.0 <= found.min() < found.max() < 1.0
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_rounding_to_the_grid_makes_nothing_larger() -> None:
    values = np.array([0.3, -0.3, GRID / 2, 1.0])
    assert (np.abs(on_grid(values)) <= np.abs(values)).all()
    assert on_grid(values)[3] == 1.0


def test_a_secret_is_drawn_once_for_a_run_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    found = secret_of(tmp_path)
    assert secret_of(tmp_path) == found
    assert (tmp_path / "noise.secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    assert secret_of(tmp_path / "other") != found


def test_a_secret_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.secret").write_bytes(b"short")
    with pytest.raises(RecipeError, match="does not hold 32 bytes"):
        secret_of(tmp_path)


def test_items_that_nobody_took_get_noise_as_well() -> None:
    found = noisy_popularity(np.zeros(20_000), Noise(SECRET), 2.0)
    # What stays is above one deviation: 15.9 % of nothing.
    assert (found > 0).mean() == pytest.approx(stats.norm.sf(1.0), abs=0.01)
    assert found[found > 0].min() >= 2.0


def test_steps_that_nobody_made_get_noise_as_well_and_few_of_them_stand_out() -> None:
    found = noisy_steps(sparse.csr_matrix((400, 400)), Noise(SECRET), 1.0, neighbours=400)
    # About three of each row.
    assert found.nnz == pytest.approx(400 * 3, rel=0.1)
    # What stands out by chance weighs less than one deviation.
    assert found.data.mean() < 0.5
    assert (found.diagonal() == 0).all()


def test_a_step_that_many_made_stands_out_of_the_noise() -> None:
    sums = sparse.csr_matrix(([50.0], ([1], [2])), shape=(30, 30))
    found = noisy_steps(sums, Noise(SECRET), 2.0, neighbours=5)
    assert found[1].argmax() == 2
    assert 35.0 < found[1, 2] < 50.0
