"""Late interaction: the kernels against each other (same bits) and against numpy (quantisation apart)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import rankcore

# Rounding a product to steps of 1/127 moves a cosine by a standard deviation of 1/127/sqrt(12) = 0.0023, the
# query by less; a score is the mean over query tokens. Room for six; a wrong layout is off by tenths.
ONE_COSINE = 0.018


def tolerance(query_tokens: int) -> float:
    return ONE_COSINE / float(np.sqrt(query_tokens))


def unit_rows(random: np.random.Generator, rows: int, dimension: int) -> npt.NDArray[np.float32]:
    values = random.standard_normal((rows, dimension)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def maxsim_in_numpy(
    query: npt.NDArray[np.float32], products: list[npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    scores = [float((query @ product.T).max(axis=1).mean()) for product in products]
    return np.array(scores, np.float32)


@pytest.mark.parametrize("query_tokens", [1, 2, 5, 6, 7, 12, 16, 32])
@pytest.mark.parametrize("dimension", [32, 64, 128])
def test_scores_are_those_of_numpy_within_the_quantisation(query_tokens: int, dimension: int) -> None:
    random = np.random.default_rng(query_tokens * 1000 + dimension)
    query = unit_rows(random, query_tokens, dimension)
    products = [unit_rows(random, int(count), dimension) for count in random.integers(1, 65, size=200)]
    scores = rankcore.maxsim(query, rankcore.PackedTokens(products))
    assert scores.dtype == np.float32
    assert scores.shape == (200,)
    np.testing.assert_allclose(scores, maxsim_in_numpy(query, products), rtol=0, atol=tolerance(query_tokens))


@pytest.mark.parametrize("query_tokens", range(1, 20))
def test_the_fast_kernel_equals_the_plain_loop_bit_for_bit(query_tokens: int) -> None:
    random = np.random.default_rng(query_tokens)
    query = unit_rows(random, query_tokens, 64)
    products = rankcore.PackedTokens([unit_rows(random, count, 64) for count in range(1, 60)])
    fast, plain = rankcore.maxsim(query, products), rankcore.maxsim_reference(query, products)
    np.testing.assert_array_equal(fast.view(np.uint32), plain.view(np.uint32))


def test_the_order_of_clearly_different_products_is_kept() -> None:
    random = np.random.default_rng(3)
    query = unit_rows(random, 8, 64)
    noise = [unit_rows(random, 24, 64) for _ in range(50)]
    mixes = []
    for share, product in zip(np.linspace(0.0, 1.0, 50), noise, strict=True):
        mixed = product.copy()
        mixed[:8] = share * query + (1 - share) * mixed[:8]
        mixes.append((mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32))
    scores = rankcore.maxsim(query, rankcore.PackedTokens(mixes))
    expected = maxsim_in_numpy(query, mixes)
    apart = np.abs(expected[:, None] - expected[None, :]) > 2 * tolerance(8)
    agree = (scores[:, None] > scores[None, :]) == (expected[:, None] > expected[None, :])
    assert agree[apart].all()
    assert apart.sum() > 1000


def test_dimensions_that_do_not_fit_are_refused() -> None:
    random = np.random.default_rng(1)
    with pytest.raises(ValueError, match="multiple of 4"):
        rankcore.PackedTokens([unit_rows(random, 3, 30)])
    with pytest.raises(ValueError, match="differ"):
        rankcore.PackedTokens([unit_rows(random, 3, 32), unit_rows(random, 3, 64)])
    with pytest.raises(ValueError, match="64 dimensions"):
        rankcore.maxsim(unit_rows(random, 2, 64), rankcore.PackedTokens([unit_rows(random, 3, 32)]))
